"""When do generated images help? Every situation of the augmentation study on several real sets, in one table.

    python benchmarks/situations.py --data ../shared/data --output runs/situations --budget 2h
    python benchmarks/situations.py --data ../shared/data --output runs/situations --classifier resnet18 --sets retinamnist
    python benchmarks/situations.py --table    # results/situations.json as Markdown, for docs/augmentation.md, and as a picture

Each is a `study augmentation` as a user would run it, with the share of real images that SHARES says and a shorter training of the
generators than the default. Interrupted, the same command goes on; studies of a set share their generators. What the table needs
of finished studies stands in results/situations.json; the reports lie under --output. Of several labels an image those that some
split hardly shows are left out. A study that is refused has its reason in the table.

A row of the table is a situation on a set: the verdict; the arm and the control that it rests on, with their difference and its
95 % interval; the true difference that the study would find in four cases of five; and what is recommended.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judging import RESULTS
from sets import SETS, described
from tqdm import tqdm
from trainings import Row, table_head

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.npz import npz_arrays, write_npz
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import StoppedError, UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, MAIN_ARM
from medmnist_diffusion.studies.augmentation.protocol import draws_in
from medmnist_diffusion.studies.augmentation.situations import SITUATIONS
from medmnist_diffusion.studies.augmentation.study import study_augmentation
from medmnist_diffusion.studies.budget import seconds_of
from medmnist_diffusion.studies.reports import panels

# About 240 real images of each set, in the shares of its classes (of the chest set half of the few that there are).
SHARES = {"pneumoniamnist": 0.05, "retinamnist": 0.25, "pbc_blood_28": 0.02, "nih_chest_subset_28": 0.5}
RARE_SHARE = 0.05
CLASSIFIER_STEPS = {"small-cnn": 300, "resnet18": 100}  # a step of ResNet-18 costs thirty of the small CNN's
OUTSIDE = {
    "pneumoniamnist": ("retinamnist", "retinamnist-28"),
    "retinamnist": ("pbc_blood_28", "pbc-blood-28"),
    "pbc_blood_28": ("retinamnist", "retinamnist-28"),
}
RESULT = RESULTS / "situations.json"
KEPT = (
    "regime", "verdict", "sentence", "effect", "interval", "p_value", "recommended", "arm", "control", "draws", "comparisons",
    "smallest_detectable", "n_real", "attacks", "beats_controls", "held_out", "held_out_effect", "trade_off",
)  # fmt: skip
OF_EFFECT = ("arm", "control", "difference", "interval", "p_value", "corrected_p_value")
FEWEST = 5  # images of each split that show a label
WORDS = {"an easier thing is as good": "easier is as good"}


def studied(args: argparse.Namespace, name: str, situation: str, seconds: float) -> list[Row]:
    """Run what is missing of a study; a row for each of its regimes."""
    home = Path(args.output).resolve() / name
    folder = home / f"{situation}-{args.classifier}"
    folder.mkdir(parents=True, exist_ok=True)
    for shared in ("generators", "pools"):
        (home / shared).mkdir(exist_ok=True)
        if not (folder / shared).exists():
            (folder / shared).symlink_to(home / shared, target_is_directory=True)
    with tempfile.TemporaryDirectory() as temporary:
        paths = {
            one: with_common_labels(described(args.data / SETS[one], Path(temporary) / one), Path(temporary) / one)
            for one in (name, *OUTSIDE.get(name, ())[:1])
        }
        options: dict[str, Any] = {"shares": [RARE_SHARE if situation == "rare-class" else SHARES[name]]}
        if situation == "few-images":  # the one arm that was named in advance
            options |= {"arms": [MAIN_ARM.name], "imbalance": 0}
        if name in OUTSIDE and situation in ("outside-data", "synthetic-first"):
            other, start = OUTSIDE[name]
            options["outside"] = str(paths[other])
            if situation == "outside-data":
                options["pretrained_model_name_or_path"] = start
        options |= {
            "situation": situation, "seeds": args.seeds, "classifier": args.classifier,
            "classifier_steps": CLASSIFIER_STEPS[args.classifier], "max_train_steps": args.steps,
        }  # fmt: skip
        study_augmentation(
            str(paths[name]),
            output=folder,
            time_budget=f"{seconds / 60:.1f}m",
            command=as_command(name, options),
            **options,
        )
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"regimes": []}
    return [
        {
            "set": name, "situation": situation, "classifier": args.classifier, "steps": args.steps, "seeds": args.seeds,
            "classifier_steps": CLASSIFIER_STEPS[args.classifier], **_kept(folder, results, one, situation),
        }
        for one in results["regimes"]
    ]  # fmt: skip


def as_command(name: str, options: Mapping[str, Any]) -> str:
    """What a user would type."""

    def words(value: Any) -> str:
        several = value if isinstance(value, list) else [value]
        return " ".join(Path(one).stem if str(one).endswith(".npz") else f"{one}" for one in several)

    given = (f"--{option} {words(value)}" for option, value in options.items())
    return f"medmnist-diffusion study augmentation {name} {' '.join(given)}"


def with_common_labels(path: Path, folder: Path) -> Path:
    """The set; of several labels an image one without the labels that some split shows fewer than FEWEST times."""
    dataset = load_dataset(str(path))
    matrices = {name: dataset.conditioning.matrix(split.labels) for name, split in dataset.splits.items()}
    common = np.min([matrix.sum(0) for matrix in matrices.values()], axis=0) >= FEWEST
    if not dataset.conditioning.multi_label or common.all():
        return path
    arrays = npz_arrays(dataset.splits, dataset.conditioning)
    arrays |= {f"{name}_labels": matrix[:, common] for name, matrix in matrices.items()}
    names = [name for name, kept in zip(dataset.conditioning.names, common, strict=True) if kept]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"common-{path.name}"
    record = {"label": dict(enumerate(names)), "license": dataset.license, "citation": dataset.citation}
    write_npz(target, arrays, {**record, "description": f"{dataset.name} without its rarest labels."})
    return target


def _kept(folder: Path, results: Row, regime: Row, situation: str) -> Row:
    """Of a study's results what stands in the table, and what benchmarks/predictor.py asks for: means over draws. Its gain is that
    of the arm that was named in advance against `classical`, in AUC, whatever the verdict is on."""
    primary = SITUATIONS[situation].primary
    row = {key: regime[key] for key in KEPT if key in regime}
    row["n_real"] = round(float(np.mean(regime["n_real"])))
    draws = [one for one in draws_in(folder).records().values() if one.regime.name == regime["regime"]]
    row["evenness"] = float(np.mean([evenness(one.n_real_per_class) for one in draws]))
    pools = [
        pool for pool in results["pools"]
        if pool["regime"] == regime["regime"] and pool["pool"] == BY_NAME[primary].pool
    ]  # fmt: skip
    names = [name for name in pools[0] if name not in ("regime", "seed", "pool")] if pools else []
    row["pool"] = {name: float(np.nanmean([pool.get(name, np.nan) for pool in pools])) for name in names}
    gains = [one for one in regime["effects"]["auc"] if (one["arm"], one["control"]) == (primary, CLASSICAL.name)]
    row["gain"] = gains[0]["difference"] if gains else None
    row["effects"] = [{key: one[key] for key in OF_EFFECT} for one in regime["effects"][SITUATIONS[situation].figure]]
    return row | {"means": regime["arms"]}


def evenness(counts: Sequence[int]) -> float:
    """1 where all classes have as many images, 0 where one has all: Shannon's entropy ÷ its largest value (Pielou 1966)."""
    shares = np.array(counts) / np.sum(counts)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum() / np.log(len(counts)))


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Situation by situation, and within each set by set."""
    situations, sets = list(SITUATIONS), list(SHARES)
    return sorted(
        rows, key=lambda row: (situations.index(row["situation"]), sets.index(row["set"]), row["classifier"])
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A row for each situation, set and classifier: verdict, effect with its interval, power, what is recommended."""
    yield from table_head(
        "situation", "set, real images", "verdict", "compared", "difference", "95 % interval", "on left-out images", "sees",
        "draws", "what to do",
    )  # fmt: skip
    for row in in_order(rows):
        head = f"| {row['situation']} | {row['set']}{_classifier(row)}"
        if row.get("effect") is None:
            yield f"{head} | {row.get('verdict', 'refused')} | {row.get('refused', '')} | | | | | | |"
            continue
        low, high = row["interval"]
        left = row.get("held_out_effect")
        left_out = f"{left['difference']:+.3f} ± {left['reach']:.3f}" if left else ""
        yield (
            f"{head}, {row['n_real']:,} | **{WORDS.get(row['verdict'], row['verdict'])}** | {row['arm']} − {row['control']} | "
            f"{row['effect']:+.3f} | {low:+.3f} … {high:+.3f} | {left_out} | {row['smallest_detectable']:.3f} | {row['draws']} | "
            f"{row['recommended']} |"
        )


def _classifier(row: Row) -> str:
    return "" if row["classifier"] == "small-cnn" else f", {row['classifier']}"


def sharing_table(rows: Sequence[Row]) -> Iterator[str]:
    """Usefulness against what is given away: of every set the classifiers of real images, then those of generated ones alone."""
    yield from table_head(
        "set", "trained on", "AUC", "− real", "95 % interval", "balanced accuracy", "attack on the classifier", "on the generator",
        "by itself",
    )  # fmt: skip
    for row in in_order([row for row in rows if row["situation"] == "sharing" and "refused" not in row]):
        alone = {one["arm"]: one for one in row.get("trade_off", [])}
        for arm in (CLASSICAL.name, *alone):
            means, attack = row["means"][arm], row["attacks"].get(arm)
            shown = [
                f"{means['auc']['mean']:.3f}",
                "",
                "",
                f"{means['balanced_accuracy']['mean']:.3f}",
                _attack(attack),
                "",
                "",
            ]
            if one := alone.get(arm):
                low, high = one["interval"]
                shown[1:3] = f"{one['effect']:+.3f}", f"{low:+.3f} … {high:+.3f}"
                shown[5:] = _attack(one["attack"]), one["verdict"]
            yield f"| {row['set']} | {'real images' if arm == CLASSICAL.name else arm} | {' | '.join(shown)} |"


def _attack(found: Row | None) -> str:
    return f"{found['auc']:.2f} ± {found['reach']:.2f}" if found else ""


def plot(rows: Sequence[Row], path: Path) -> None:
    """The difference of every cell with its interval, situation by situation, a colour a set."""
    shown = [row for row in in_order(rows) if row.get("effect") is not None]
    heights = range(len(shown), 0, -1)
    with panels(path, [""], (7.5, 0.8 + 0.24 * len(shown)), 1) as (axis,):
        for height, row in zip(heights, shown, strict=True):
            colour = f"C{list(SHARES).index(row['set'])}"
            axis.plot(row["interval"], [height, height], color=colour)
            axis.plot(row["effect"], height, "o" if row["classifier"] == "small-cnn" else "s", ms=4, color=colour)
        axis.axvline(0, color="0.5", lw=1)
        labels = [f"{row['situation']}, {row['set']}{_classifier(row)}: {row['verdict']}" for row in shown]
        axis.set_yticks(heights, labels, fontsize=7)
        axis.set_xlabel("AUC with generated images − without", fontsize=8)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="the folder with medmnist/ and own/")
    parser.add_argument("--output", type=Path, help="a folder for the studies")
    parser.add_argument("--sets", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--classifier", choices=CLASSIFIER_STEPS, default="small-cnn")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600, help="of each generator")
    parser.add_argument("--budget", default="24h", help="for all studies together: 90m, 2h")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"rows": []}
    if args.table:
        print("\n".join([*table(kept["rows"]), "", *sharing_table(kept["rows"])]))
        plot(kept["rows"], RESULT.with_suffix(".png"))
        return
    if args.data is None or args.output is None:
        raise UserError("--data and --output are needed.")
    deadline = time.time() + seconds_of(args.budget)
    for name in args.sets:  # whose generators all its situations share
        for situation in args.situations:
            if not _possible(args, name, situation) or time.time() > deadline:
                continue
            asked = {"set": name, "situation": situation, "classifier": args.classifier}
            try:
                rows = studied(args, name, situation, deadline - time.time())
            except StoppedError:
                raise
            except UserError as error:
                tqdm.write(f"{name}, {situation}: {error}")
                rows = [{**asked, "refused": str(error)}]
            others = [row for row in kept["rows"] if not asked.items() <= row.items()]
            before = [row for row in kept["rows"] if row not in others and "refused" not in row]
            if before and not any("refused" not in row for row in rows):
                continue  # what is finished stays
            command = "python benchmarks/situations.py --data ../shared/data --output runs/situations"
            kept = {"command": command, "machine": describe_machine(), "rows": others + rows}
            write_json(RESULT, kept)


def _possible(args: argparse.Namespace, name: str, situation: str) -> bool:
    """Whether a situation can be had on a set: a rare class needs one class an image, outside data a pipeline of another set."""
    if situation == "outside-data":
        return name in OUTSIDE
    return situation != "rare-class" or not load_dataset(str(args.data / SETS[name])).conditioning.multi_label


if __name__ == "__main__":
    sys.exit(run_command(main))
