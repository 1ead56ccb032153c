"""What a command line offers to choose from. Light: reading an option must not wait for torch.

Where the choices are keys of a table elsewhere, tests hold the two against each other.
"""

from typing import Literal

OPEN_LICENSES = {"CC BY 4.0": "cc-by-4.0", "CC BY-NC 4.0": "cc-by-nc-4.0", "CC0 1.0": "cc0-1.0"}  # name → the Hub's id
INCEPTION_DIMENSIONS = (64, 192, 768, 2048)
SELECTIONS = ("confident", "in-distribution", "not-memorized", "diverse")
SITUATIONS = ("few-images", "few-labels", "outside-data", "rare-class", "synthetic-first", "sharing", "soft-labels")
SITUATION_HELP = (
    "What is asked: more images of few (default); few labels beside many images without; another set beside few images; a rare "
    "class; generated images first, real ones then; generated images in place of real ones that cannot be shared; generated "
    "images with soft labels."
)
LOSS_PARTS = ("losses", "waterfall", "parameters", "robustness")
FITS = ("crop", "pad", "squash")
WINDOW_HELP = (
    "Of images with more than 8 bits, which values become black and white: auto, percentile, file, or two numbers (default auto: "
    "the files' own where all say the same, else 0.5 and 99.5 % of all values)."
)

Format = Literal["folder", "npz", "parquet"]

# How other training scripts spell our options (diffusers' above all), and what to say.
OTHER_SPELLINGS = {
    "resolution": "It is --size here.",
    "image_size": "It is --size here.",
    "train_data_dir": "It is --dataset here.",
    "dataset_name": "It is --dataset here.",
    "lr": "It is --learning_rate here.",
    "ddpm_num_steps": "It is --num_train_timesteps here.",
    "ddpm_beta_schedule": "It is --beta_schedule here.",
    "ddpm_num_inference_steps": "`medmnist-diffusion sample` has --num_inference_steps.",
    "num_epochs": "It is --num_train_epochs here.",
    "max_steps": "It is --max_train_steps here.",
    "batch_size": "It is --train_batch_size here.",
    "logger": "It is --report_to here.",
    "ema_max_decay": "It is --ema_decay here.",
    "save_images_epochs": "It is --sample_steps here.",
    "save_model_epochs": "It is --checkpointing_steps here.",
    "resume_from_checkpoint": "The same command on the same --output_dir resumes by itself.",
    "hub_token": "Log in by `hf auth login`, or set HF_TOKEN.",
    "rate": "Real or generated? is on the page of `medmnist-diffusion app PIPELINE --dataset DATASET`.",
    "cache_dir": "MEDMNIST_DIFFUSION_CACHE names the cache, --root where MedMNIST files lie.",
}


def study_kind(situation: str) -> str:
    """What the folder of a study in a situation is called after, beside its data set."""
    return "augmentation" if situation == "few-images" else situation
