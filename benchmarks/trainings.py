"""Benchmarks that train, on the studies' grid: which cells are missing, who runs them, and the one file that keeps their figures.

A cell is a dict of all that its figures depend on beside the benchmark's command, such as an arm and a seed. A result file holds
the command, and under `runs` rows of a cell with its figures: mostly one row a cell. A row is written as soon as its cell is done,
so that an interrupted benchmark goes on, and a longer list of arms or seeds adds to the file.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, SPACES, dataset_options, drawn_labels, judge, summary_line, train_quietly
from tqdm import tqdm

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier import real_data_classifier
from medmnist_diffusion.processes import available_cores, threads_kept
from medmnist_diffusion.studies.run import absolute_source
from medmnist_diffusion.studies.workers import Workers, run_tasks

Row = dict[str, Any]
Run = Callable[[argparse.Namespace, Row], Iterable[Row]]  # `run(args, cell)` gives the rows of a cell's figures
IMAGES = 1000  # of each training, that are judged


def trainings_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of a benchmark of several short trainings: the data set, --seeds and --output."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a file (default: BENCHMARK_DATASET.json in benchmarks/results)")
    return parser


def train_cell(args: argparse.Namespace, seed: int, folder: str, options: Sequence[str]) -> tuple[Path, Row]:
    """A training on the benchmark's data set; the pipeline folder and its summary. The options hold the budget."""
    words = ["--seed", str(seed), *dataset_options(args.root, args.size), *options]
    return train_quietly(args.dataset, Path(folder), words)


def judge_pipeline(args: argparse.Namespace, pipe: Any, seed: int) -> Row:
    """`judge` of images of a loaded pipeline, by the default sampler, of labels in the training images' shares."""
    dataset = load_dataset(args.dataset, args.root, args.size)
    labels = drawn_labels(dataset.train.labels, IMAGES, seed)
    return judge(dataset, generate_images(pipe, labels, seed=seed), labels)


def run_trainings(
    benchmark: str, budget: str, args: argparse.Namespace, cells: Sequence[Row], run: Run,
    facts: Row | None = None, one_machine: bool = False,
) -> list[Row]:  # fmt: skip
    """Run the missing ones of the cells, each on a core of its own; returns all rows of the result file.

    Args:
        budget: of each training, as the command line has it: `--steps 800`.
        run: a function of a module, which worker processes find by its name.
        facts: what else stands above the rows.
        one_machine: whether rows of two machines do not compare, as where the budget is a time.
    """
    dataset = load_dataset(args.dataset, args.root, args.size)
    real_data_classifier(dataset)  # once, not in every process
    with threads_kept(1):
        facts = {"machine": describe_machine(), "judged_images": IMAGES, **(facts or {})}
    size = f" --size {args.size}" if args.size else ""
    command = f"python benchmarks/{benchmark}.py --dataset {args.dataset}{size} {budget}"
    args.dataset = absolute_source(args.dataset)
    path = args.output or RESULTS / f"{benchmark}_{dataset.name}.json"
    head, same = {"command": command, **facts}, ("command", "machine") if one_machine else ("command",)
    return run_missing(path, head, args, cells, run, len(available_cores()), same)


def run_missing(
    path: Path, head: Row, args: argparse.Namespace, cells: Sequence[Row], run: Run, processes: int = 0,
    same: Sequence[str] = ("command",),
) -> list[Row]:  # fmt: skip
    """Run those of the cells that have no row in the result file, and keep their rows; returns all rows of the file.

    Args:
        head: stands above the rows of a new file: the command, and what is the same in all cells.
        processes: of one core each; 0 for this process with all its cores.
        same: what of the head must be the file's.

    Raises:
        UserError: if the file holds the results of another command (or machine, where that counts).
    """
    result = _kept_result(path, head, same)
    missing = [(run, args, cell) for cell in cells if not any(cell.items() <= row.items() for row in result["runs"])]
    log = path.with_suffix(".log")
    for rows in run_tasks(_rows_of, missing, Workers(log, processes), unit="run"):
        result["runs"] += rows
        write_json(path, result)
        for row in rows:
            tqdm.write(_line(row))
    log.unlink(missing_ok=True)
    return result["runs"]


def _rows_of(run: Run, args: argparse.Namespace, cell: Row) -> list[Row]:
    return [{**cell, **figures} for figures in run(args, cell)]


def _line(row: Row) -> str:
    """A row for the terminal."""
    facts = {name: value for name, value in row.items() if not isinstance(value, dict)}
    words = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()]
    judged = f": {summary_line(row)}" if SPACES[0] in row else ""
    return ", ".join(words) + judged


def kept_results(benchmark: str) -> dict[str, Row]:
    """Every result file of a benchmark as it is now, by its set's name; not those of older versions, which know no floors."""
    files = {path.stem.removeprefix(f"{benchmark}_"): path for path in sorted(RESULTS.glob(f"{benchmark}_*.json"))}
    known = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}
    return {name: result for name, result in known.items() if "floors" in result}


def floors_shown(floors: Row, spaces: Sequence[str]) -> list[str]:
    """The distances of real images, for a table."""
    return [f"{floors[space]:.2g}" if floors[space] > 0 else "about 0" for space in spaces]


def table_head(*columns: str) -> Iterator[str]:
    """The first two lines of a table in Markdown."""
    yield f"| {' | '.join(columns)} |"
    yield "| --- " * len(columns) + "|"


def with_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, for a table."""
    if not len(values):
        return "–"
    return f"{np.mean(values):.3g}" + (f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else "")


def _kept_result(path: Path, head: Row, same: Sequence[str]) -> Row:
    if not path.is_file():
        return {**head, "runs": []}
    result: Row = json.loads(path.read_text(encoding="utf-8"))
    for name in same:
        if result[name] != head[name]:
            raise UserError(f"{path} holds the results of `{result[name]}`. Give another --output, or remove it.")
    return result
