"""How many real images lie so near to a training image as a person's next picture does? In each real set, and in the phantoms.

    python benchmarks/next_pictures.py --data ../shared/data
    python benchmarks/next_pictures.py --table             # of results/next_pictures.json, as Markdown

The relative distance of data/twins.py, of val images and of training images, each left out once, without twins. Where the images
are of different people, next to none lie below one half; where that is common, copies cannot be judged (publish/copies.py). The
last column is the same of generated images that benchmarks/sets.py left with --keep, if --pipelines names that folder.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from judging import RESULTS
from sets import SETS, described
from trainings import Row

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.data.twins import find_twins, nearest_pictures
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.memorization import NEAR
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.samples import samples_path

RESULT = RESULTS / "next_pictures.json"
PHANTOMS = ("phantom", "phantom-rgb", "phantom-multilabel", "phantom-ordinal")


def measured(dataset: ImageDataset, pipeline: Path) -> Row:
    """A row of the table; of generated images too where the pipeline's folder has some."""
    real = find_twins(dataset).independent
    row = {
        "set": dataset.name,
        "real_images": len(real),
        "near": float((real < NEAR).mean()),
        "lowest_percent": float(np.quantile(real, 0.01)),
        "median": float(np.median(real)),
    }
    samples = samples_path(pipeline, 0)
    if samples.is_file():
        labels = dataset.conditioning.num_labels
        generated = read_npz(samples, ("train",), num_labels=labels)["train"]
        row["near_generated"] = float((nearest_pictures(generated, dataset.train).relative < NEAR).mean())
    return row


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    yield "| set | real images | nearer than ½ | 1 % are nearer than | median | generated images nearer than ½ |"
    yield "| --- " * 6 + "|"
    for row in rows:
        generated = f"{row['near_generated']:.1%}" if "near_generated" in row else "–"
        figures = f"{row['near']:.1%} | {row['lowest_percent']:.2f} | {row['median']:.2f}"
        yield f"| {row['set']} | {row['real_images']:,} | {figures} | {generated} |"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="the folder with medmnist/ and own/")
    parser.add_argument("--pipelines", type=Path, default=Path("."), help="the folder that sets.py --keep filled")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    if args.table:
        print("\n".join(markdown(json.loads(RESULT.read_text(encoding="utf-8"))["rows"])))
        return
    if args.data is None:
        raise UserError("--data is needed.")
    start_processes()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, file in SETS.items():
            dataset = load_dataset(str(described(args.data / file, Path(folder) / name)))
            rows.append(measured(dataset, args.pipelines / f"{name}-0" / "run" / "pipeline"))
            print(rows[-1])
    rows += [measured(load_dataset(name), Path("none")) for name in PHANTOMS]
    write_json(
        RESULT,
        {"command": "python benchmarks/next_pictures.py --data ../shared/data --pipelines FOLDER", "rows": rows},
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
