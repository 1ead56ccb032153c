"""When do generated images help? Every situation of the augmentation study on several real sets, in one table.

    python benchmarks/situations.py --data ../shared/data --output runs/situations --budget 2h
    python benchmarks/situations.py --data ../shared/data --output runs/situations --classifier resnet18 --sets retinamnist
    python benchmarks/situations.py --table          # of results/situations.json, as Markdown, for docs/augmentation.md

Each is a `study augmentation` as a user would run it, with the share of real images that SHARES says and a shorter training of the
generators than the default. Interrupted, the same command goes on; studies of a set share their generators. What the table needs
of finished studies stands in results/situations.json; the reports lie under --output.
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
from judging import RESULTS
from sets import SETS, described
from trainings import Row

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.studies.augmentation.protocol import draws_in
from medmnist_diffusion.studies.augmentation.situations import SITUATIONS
from medmnist_diffusion.studies.augmentation.study import study_augmentation
from medmnist_diffusion.studies.budget import seconds_of

# About 240 real images of each set, in the shares of its classes (of the chest set half of the few that there are).
SHARES = {"pneumoniamnist": 0.05, "retinamnist": 0.25, "pbc_blood_28": 0.02, "nih_chest_subset_28": 0.5}
RARE_SHARE = 0.05
OUTSIDE = {
    "pneumoniamnist": ("retinamnist", "retinamnist-28"),
    "retinamnist": ("pbc_blood_28", "pbc-blood-28"),
    "pbc_blood_28": ("retinamnist", "retinamnist-28"),
}
RESULT = RESULTS / "situations.json"
KEPT = (
    "regime", "verdict", "sentence", "effect", "interval", "p_value", "recommended", "arm", "control", "draws", "comparisons",
    "smallest_detectable", "n_real", "attacks",
)  # fmt: skip
WORDS = {"an easier thing is as good": "easier is as good"}


def studied(args: argparse.Namespace, name: str, situation: str, seconds: float) -> list[Row]:
    """Run what is missing of a study; a row for each regime that has a verdict from all the draws that were asked for."""
    home = Path(args.output).resolve() / f"{name}-{args.classifier}"
    folder = home / situation
    folder.mkdir(parents=True, exist_ok=True)
    (home / "generators").mkdir(exist_ok=True)
    if not (folder / "generators").exists():
        (folder / "generators").symlink_to(home / "generators", target_is_directory=True)
    with tempfile.TemporaryDirectory() as temporary:
        paths = {
            one: described(args.data / SETS[one], Path(temporary) / one) for one in (name, *OUTSIDE.get(name, ())[:1])
        }
        options: dict[str, Any] = {"shares": [RARE_SHARE if situation == "rare-class" else SHARES[name]]}
        if situation == "outside-data":
            other, start = OUTSIDE[name]
            options |= {"outside": str(paths[other]), "pretrained_model_name_or_path": start}
        study_augmentation(
            str(paths[name]), output=folder, situation=situation, seeds=args.seeds, classifier=args.classifier,
            max_train_steps=args.steps, time_budget=f"{seconds / 60:.1f}m",
            command=f"study augmentation {name} --situation {situation}",
            **options,
        )  # fmt: skip
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"regimes": []}
    return [
        {"set": name, "situation": situation, "classifier": args.classifier, **_kept(folder, results, one)}
        for one in results["regimes"]
        if one["draws"] >= args.seeds
    ]


def _kept(folder: Path, results: Row, regime: Row) -> Row:
    """Of a study's results what stands in the table, and what benchmarks/predictor.py asks for: means over draws."""
    row = {key: regime[key] for key in KEPT if key in regime}
    row["n_real"] = round(float(np.mean(regime["n_real"])))
    draws = [one for one in draws_in(folder).records().values() if one.regime.name == regime["regime"]]
    row["evenness"] = float(np.mean([evenness(one.n_real_per_class) for one in draws]))
    pools = [pool for pool in results["pools"] if pool["regime"] == regime["regime"]]
    first = [pool for pool in pools if pool["pool"] == pools[0]["pool"]]
    names = [name for name in first[0] if name not in ("regime", "seed", "pool")] if first else []
    row["pool"] = {name: float(np.nanmean([pool.get(name, np.nan) for pool in first])) for name in names}
    return row | {"means": regime["arms"]}


def evenness(counts: Sequence[int]) -> float:
    """1 where all classes have as many images, 0 where one has all: Shannon's entropy ÷ its largest value (Pielou 1966)."""
    shares = np.array(counts) / np.sum(counts)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum() / np.log(len(counts)))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A row for each set and classifier, a column for each situation: verdict, effect with its interval, what is recommended."""
    asked = [name for name in SITUATIONS if any(row["situation"] == name for row in rows)]
    yield f"| set, real images, classifier | {' | '.join(asked)} |"
    yield "| --- " * (1 + len(asked)) + "|"
    for name, classifier in dict.fromkeys((row["set"], row["classifier"]) for row in rows):
        those = {row["situation"]: row for row in rows if (row["set"], row["classifier"]) == (name, classifier)}
        counts = sorted({row["n_real"] for key, row in those.items() if key != "rare-class"})
        heading = f"{name}, {' / '.join(map(str, counts))}, {classifier}"
        yield f"| {heading} | {' | '.join(_cell(those[one]) if one in those else '' for one in asked)} |"


def _cell(row: Row) -> str:
    if row["effect"] is None:
        return str(row["verdict"])
    low, high = row["interval"]
    verdict = WORDS.get(row["verdict"], row["verdict"])
    return f"**{verdict}**: {row['effect']:+.3f} ({low:+.3f} … {high:+.3f}); {row['recommended']}"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="the folder with medmnist/ and own/")
    parser.add_argument("--output", type=Path, help="a folder for the studies")
    parser.add_argument("--sets", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--situations", nargs="+", choices=[one for one in SITUATIONS if one != "few-images"])
    parser.add_argument("--classifier", default="small-cnn")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600, help="of each generator")
    parser.add_argument("--budget", default="24h", help="for all studies together: 90m, 2h")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"rows": []}
    if args.table:
        print("\n".join(table(kept["rows"])))
        return
    if args.data is None or args.output is None:
        raise UserError("--data and --output are needed.")
    deadline = time.time() + seconds_of(args.budget)
    for situation in args.situations or [one for one in SITUATIONS if one != "few-images"]:
        for name in args.sets:
            if not _possible(args, name, situation) or time.time() > deadline:
                continue
            rows = studied(args, name, situation, deadline - time.time())
            known = [_key(row) for row in rows]
            others = [row for row in kept["rows"] if _key(row) not in known]
            command = f"python benchmarks/situations.py --seeds {args.seeds} --steps {args.steps}"
            kept = {"command": command, "machine": describe_machine(), "rows": others + rows}
            write_json(RESULT, kept)


def _key(row: Row) -> tuple[str, ...]:
    return row["set"], row["situation"], row["classifier"], row["regime"]


def _possible(args: argparse.Namespace, name: str, situation: str) -> bool:
    """Whether a situation can be had on a set: a rare class needs one class an image, outside data a pipeline of another set."""
    if situation == "outside-data":
        return name in OUTSIDE
    return situation != "rare-class" or not load_dataset(str(args.data / SETS[name])).conditioning.multi_label


if __name__ == "__main__":
    sys.exit(run_command(main))
