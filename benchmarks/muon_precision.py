"""Does it matter that our Muon orthogonalizes in float32, and torch.optim.Muon in bfloat16?

    python benchmarks/muon_precision.py --steps 800 --seeds 3      # PneumoniaMNIST from $MEDMNIST_ROOT

The same training twice for each seed, the second time with the result of every product rounded to bfloat16, as torch's has it; the
products themselves are float32's in both, so that the second is no slower where bfloat16 is emulated.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence

import torch
from trainings import Row, judge_pipeline, run_trainings, train_cell, trainings_parser

from medmnist_diffusion.diffusion import optimizers
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.errors import run_command


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


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One training in one of the precisions."""
    optimizers.orthogonalized = ARMS[cell["precision"]]
    with tempfile.TemporaryDirectory() as folder:
        pipeline, summary = train_cell(args, cell["seed"], folder, ["--max_train_steps", str(args.steps)])
        yield {"val_loss": summary["val_loss"], **judge_pipeline(args, load_pipeline(pipeline), cell["seed"])}


def main(argv: Sequence[str]) -> None:
    parser = trainings_parser(__doc__)
    parser.add_argument("--steps", type=int, default=800, help="of each training (default 800)")
    args = parser.parse_args(argv)
    cells = [{"seed": seed, "precision": name} for seed in range(args.seeds) for name in ARMS]
    run_trainings("muon_precision", f"--steps {args.steps}", args, cells, run)


if __name__ == "__main__":
    sys.exit(run_command(main))
