"""Which network for volumes? Depth as channels with two targets, and a real three-dimensional one, at equal time.

    python benchmarks/volumes.py --dataset ../shared/data/medmnist/adrenalmnist3d.npz --minutes 20 --seeds 3
    python benchmarks/volumes.py --table            # of results/volumes.json, as Markdown, for docs/sets.md

Arms: `image` and `velocity` are our pipeline (a stock UNet2DModel that sees slices as channels), which learns the image itself or
the velocity; `monai` is monai's DiffusionModelUNet on the whole volume (pip install monai), with the same noise schedule, batches
and sampler, AdamW, and velocity as its target. Of data that hold nothing but black and white all make such volumes. Each is
trained for the same time with all cores and judged on as many volumes as there are training ones: test AUC of a classifier
trained on them, beside one trained on as many real ones; foreground; distances; copies. Rows gather in results/volumes.json.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from judging import RESULTS
from medmnist.evaluator import getAUC
from trainings import Row, table_head

from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split, load_dataset, to_uint8
from medmnist_diffusion.diffusion.batches import TrainingBatches
from medmnist_diffusion.diffusion.loss import log_snr, prediction_target
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier import fitted_classifier
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.train import train

ARMS = ("image", "velocity", "monai")
RESULT = RESULTS / "volumes.json"
KEPT = (
    "frechet_distance",
    "foreground_deviation",
    "foreground_spread_deviation",
    "copied_share",
    "memorized_share",
    "label_accuracy",
)
SAMPLING_STEPS, SAMPLED_AT_ONCE = 10, 16
GUIDANCES = (1.0, 1.2)
TARGETS = {"image": "sample", "velocity": "v_prediction"}


def ours(args: argparse.Namespace, target: str, seed: int, labels: np.ndarray) -> Iterator[tuple[Row, np.ndarray]]:
    """Volumes of our pipeline and what is known of it, without guidance and with as much as a pipeline can have of its own.

    Its run is left under `--keep`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep / f"{target}-{seed}" if args.keep else Path(temporary)
        config = training_config(
            dataset=args.dataset, output_dir=f"{folder}/run", prediction_type=target, block_out_channels=[128, 128],
            pixel_unshuffle=2, max_train_minutes=args.minutes, seed=seed, report_to="none",
        )  # fmt: skip
        pipeline = train(config)
        pipe, summary = load_pipeline(pipeline), TrainingSummary.of(pipeline)
        facts = figures_of(summary.images_seen / summary.seconds, summary.parameters)
        for scale in GUIDANCES:
            yield {**facts, "guidance_scale": scale}, generate_images(pipe, labels, SAMPLING_STEPS, scale, seed)


def figures_of(volumes_per_second: float, parameters: int) -> Row:
    return {"volumes_per_second": round(volumes_per_second, 1), "parameters": parameters}


def monais(dataset: ImageDataset, minutes: float, seed: int, labels: np.ndarray) -> Iterator[tuple[Row, np.ndarray]]:
    """The same of monai's network: AdamW, an average of the weights, DPM-Solver++ as in our pipeline."""
    from diffusers import DPMSolverMultistepScheduler
    from diffusers.training_utils import EMAModel
    from monai.networks.nets import DiffusionModelUNet

    torch.manual_seed(seed)
    conditioning, scheduler = dataset.conditioning, build_noise_scheduler()
    network = DiffusionModelUNet(
        spatial_dims=3, in_channels=1, out_channels=1, channels=(16, 32, 64), attention_levels=(False, False, False),
        num_res_blocks=1, norm_num_groups=8, num_class_embeds=conditioning.num_classes + 1,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, power=2 / 3)
    batches = TrainingBatches(dataset.train, 16, seed, 1000, conditioning, log_snr=log_snr(scheduler))
    began, step = time.monotonic(), 0
    while (spent := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * spent))
        batch = batches[step]
        noisy = scheduler.add_noise(batch.images, batch.noise, batch.timesteps)
        predicted = network(noisy, timesteps=batch.timesteps, class_labels=batch.labels)
        loss = F.mse_loss(predicted, prediction_target(scheduler, batch.images, batch.noise, batch.timesteps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.step(network.parameters())
        step += 1
    average.copy_to(network.parameters())
    network.eval()
    solver: Any = DPMSolverMultistepScheduler.from_config(scheduler.config)
    made = []
    with torch.no_grad():
        for start in range(0, len(labels), SAMPLED_AT_ONCE):
            asked = torch.from_numpy(labels[start : start + SAMPLED_AT_ONCE])
            generator = torch.Generator().manual_seed(seed * 100_000 + start)
            latents = torch.randn((len(asked), *dataset.model_shape), generator=generator)
            solver.set_timesteps(SAMPLING_STEPS)
            for timestep in solver.timesteps:
                times = torch.full((len(asked),), int(timestep))
                prediction = network(latents, timesteps=times, class_labels=asked)
                latents = solver.step(prediction, timestep, latents).prev_sample
            made.append(to_uint8(latents))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    images = np.concatenate(made)
    if dataset.is_binary:  # as our pipeline does
        images = np.where(images > 127, 255, 0).astype(np.uint8)
    yield figures_of(16 * step / (60 * minutes), parameters), images


def test_auc(dataset: ImageDataset, training: Split, seed: int) -> float:
    """On real test volumes, of a classifier trained on a split."""
    logits = predicted_logits(fitted_classifier(training, dataset.conditioning, seed), dataset.splits["test"])
    task = "binary-class" if dataset.num_classes == 2 else "multi-class"
    return float(getAUC(dataset.splits["test"].labels[:, None], logits.softmax(1).numpy(), task))


def judged(dataset: ImageDataset, images: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Any]:
    """All that the table shows of an arm's volumes."""
    generated = Split("generated", images, labels)
    extractors = [make_extractor(name, dataset) for name in OFFLINE_PAIR]
    found = evaluate_images(
        dataset, generated, extractors, seed=seed, per_class=False, parts=("features", "labels", "copies")
    )
    figures = {
        f"{record.name} {record.extractor}": {"value": record.value, "floor": record.floor, "p_value": record.p_value}
        for record in found.records
        if record.name in KEPT
    }
    auc, real = test_auc(dataset, generated, seed), test_auc(dataset, dataset.train, seed)
    return {"test_auc": auc, "test_auc_of_real": real, "of_real": auc / real, **figures}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A line a training and guidance, in the order of ARMS."""
    heads = [
        "network",
        "seed",
        "guidance",
        "test AUC ÷ real's",
        "foreground off",
        "its spread off",
        "classifier ÷ floor",
    ]
    heads += ["texture ÷ floor", "volumes/s", "parameters"]
    yield from table_head(*heads)
    for row in sorted(rows, key=lambda one: (ARMS.index(one["arm"]), one["seed"])):
        off = [
            f"{row[f'{name} pixels']['value']:.1%}" for name in ("foreground_deviation", "foreground_spread_deviation")
        ]
        distances = [row[f"frechet_distance {space}"] for space in OFFLINE_PAIR]
        ratios = [f"{one['value'] / one['floor']:.1f}" for one in distances]
        first = [row["arm"], str(row["seed"]), f"{row.get('guidance_scale', 1):g}", f"{row['of_real']:.3f}"]
        cells = [*first, *off, *ratios, f"{row['volumes_per_second']:.0f}", f"{row['parameters'] / 1e6:.1f} M"]
        yield f"| {' | '.join(cells)} |"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dataset", help="an npz of volumes")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--keep", type=Path, help="a folder that our trained pipelines stay in")
    args = parser.parse_args(argv)
    if args.table:
        print("\n".join(table(json.loads(RESULT.read_text(encoding="utf-8"))["rows"])))
        return
    if args.dataset is None:
        raise UserError("--dataset is needed: an npz of volumes.")
    start_processes()
    dataset = load_dataset(args.dataset)
    if not dataset.is_volume:
        raise UserError(f"{args.dataset} holds no volumes.")
    result: dict[str, Any] = {"machine": describe_machine(), "rows": []}
    if RESULT.is_file():
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    labels = np.sort(dataset.train.labels)
    for seed in range(args.seeds):
        for arm in args.arms:
            cell = {"set": dataset.name, "arm": arm, "minutes": args.minutes, "seed": seed}
            if any(cell.items() <= row.items() for row in result["rows"]):
                continue
            made = (
                monais(dataset, args.minutes, seed, labels)
                if arm == "monai"
                else ours(args, TARGETS[arm], seed, labels)
            )
            rows = [{**cell, **facts, **judged(dataset, images, labels, seed)} for facts, images in made]
            result["rows"] += rows
            result["command"] = f"python benchmarks/volumes.py --dataset {dataset.name} --minutes {args.minutes:g}"
            write_json(RESULT, result)
            for row in rows:
                print(f"{arm}, seed {seed}: test AUC {row['test_auc']:.3f} (real {row['test_auc_of_real']:.3f})")


if __name__ == "__main__":
    sys.exit(run_command(main))
