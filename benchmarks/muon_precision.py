"""Does it matter that our Muon orthogonalizes in float32, and torch.optim.Muon in bfloat16?

    taskset -c 0 python benchmarks/muon_precision.py --steps 800 --seeds 3      # PneumoniaMNIST from $MEDMNIST_ROOT

The same training twice for each seed, the second time with the result of every product rounded to bfloat16, as torch's has it; the
products themselves are float32's in both, so that the second is no slower where bfloat16 is emulated.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence

import torch
from judging import RESULTS, add_trainings_arguments, drawn_labels, judge, kept_result, summary_line, train_steps

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion import optimizers
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json

IMAGES = 1000


def rounded(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()


def orthogonalized_in_bfloat16(matrices: torch.Tensor) -> torch.Tensor:
    """`optimizers.orthogonalized` with torch.optim.Muon's rounding."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized_in_bfloat16(matrices.mT).mT
    matrices = rounded(matrices)
    matrices = rounded(matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7))
    for _ in range(optimizers.ITERATIONS):
        gram = rounded(matrices @ matrices.mT)
        polynomial = rounded(torch.baddbmm(gram, gram, gram, beta=optimizers.B, alpha=optimizers.C))
        matrices = rounded(torch.baddbmm(matrices, polynomial, matrices, beta=optimizers.A))
    return matrices


ARMS = {"float32": optimizers.orthogonalized, "bfloat16": orthogonalized_in_bfloat16}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_trainings_arguments(parser)
    args = parser.parse_args(argv)
    dataset = load_dataset(args.dataset, args.root, args.size)
    path = RESULTS / f"muon_precision_{dataset.name}.json"
    command = f"python benchmarks/muon_precision.py --dataset {args.dataset} --steps {args.steps}"
    result = kept_result(path, command, {"machine": describe_machine(), "judged_images": IMAGES, "runs": []})
    made = {(row["seed"], row["precision"]) for row in result["runs"]}
    for seed, precision in ((seed, name) for seed in range(args.seeds) for name in ARMS if (seed, name) not in made):
        optimizers.orthogonalized = ARMS[precision]
        labels = drawn_labels(dataset.train.labels, IMAGES, seed)
        with tempfile.TemporaryDirectory() as folder:
            pipeline, summary = train_steps(args, seed, folder)
            judged = judge(dataset, generate(load_pipeline(pipeline), labels, seed=seed), labels)
        result["runs"].append({"seed": seed, "precision": precision, "val_loss": summary["val_loss"], **judged})
        print(f"seed {seed}, {precision}: loss {summary['val_loss']:.5f}, {summary_line(judged)}", flush=True)
        write_json(path, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
