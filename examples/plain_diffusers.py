"""A pipeline folder in plain diffusers: this program imports nothing of medmnist-diffusion.

    python examples/plain_diffusers.py

The folder brings its own `pipeline.py`, which `trust_remote_code=True` runs: read it first. A pipeline of the Hub loads in the
same way, by its id.
"""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

folder = Path(__file__).parent.parent / "model_cards" / "pneumoniamnist-28"
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)

images = pipe(
    class_labels=["normal", "pneumonia"],
    num_images_per_label=4,
    timesteps=pipe.fast_timesteps(10),  # ten steps; num_inference_steps=20 lets the scheduler choose its own
    generator=torch.Generator().manual_seed(0),
).images

for number, image in enumerate(images):
    image.save(f"xray_{number}.png")
print(f"{len(images)} images of {images[0].size} pixels: xray_0.png …")
