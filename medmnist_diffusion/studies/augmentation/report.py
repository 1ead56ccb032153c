"""The augmentation study's verdicts, tables and plots, all from its units: results.json, report.md and its twin report.html."""

import base64
import mimetypes
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

from medmnist_diffusion.data.audit import audit, describe, findings
from medmnist_diffusion.files import write_json, write_text
from medmnist_diffusion.publish.card import OPEN_LICENSES
from medmnist_diffusion.publish.plots import REPORT_DPI, save_figure
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, LEAKY, OVERSAMPLED, PRIMARY
from medmnist_diffusion.studies.augmentation.effects import ALPHA, Effect, Judgement, Results, effect, effects, judge
from medmnist_diffusion.studies.augmentation.regimes import Regime
from medmnist_diffusion.studies.augmentation.scores import FIGURES, resampled_auc
from medmnist_diffusion.studies.augmentation.units import Study, UnitResult, picture_path
from medmnist_diffusion.studies.tables import markdown_table, mean_and_spread

RESAMPLINGS = 500
ENOUGH = 8  # draws, for a verdict
SHARE_CURVE = (CLASSICAL.name, "synthetic-10", PRIMARY.name, "synthetic-50")
HIGHER = {"auc": "AUC", "acc": "ACC", "balanced_accuracy": "balanced accuracy"}
NAMES = {**HIGHER, "ece": "ECE"}

# ResNet-18 (28): AUC and ACC of MedMNIST v2's Table 3 (Yang et al., Scientific Data 10, 41, 2023).
PUBLISHED = {
    "pathmnist": (0.983, 0.907), "dermamnist": (0.917, 0.735), "octmnist": (0.943, 0.743), "pneumoniamnist": (0.944, 0.854),
    "retinamnist": (0.717, 0.524), "breastmnist": (0.901, 0.863), "bloodmnist": (0.998, 0.958), "tissuemnist": (0.930, 0.676),
    "organamnist": (0.997, 0.935), "organcmnist": (0.992, 0.900), "organsmnist": (0.972, 0.782),
}  # fmt: skip

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:0 1rem;color:#222}
img{max-width:100%;height:auto}
table{display:block;overflow-x:auto;border-collapse:collapse;font-size:.9em}
td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}
code{overflow-wrap:anywhere;background:#f4f4f4}
"""


@dataclass(frozen=True)
class RegimeResult:
    """A regime's units, the AUC with resampled test sets, and the verdict."""

    regime: Regime
    units: list[UnitResult]
    auc: Results
    judgement: Judgement

    @property
    def arms(self) -> list[str]:
        """In the order in which they were made."""
        return list(dict.fromkeys(cell.arm for unit in self.units for cell in unit.cells))

    def figure(self, name: str) -> Results:
        """A figure of all arms; only the AUC is resampled over test sets."""
        if name == "auc":
            return self.auc
        return Results(_values(self.units, lambda cell: getattr(cell, name)), {})

    def effects(self, figure: str = "auc") -> dict[str, list[Effect]]:
        """Of every honest arm against each of the two controls that every table shows."""
        honest = [arm for arm in self.arms if not BY_NAME[arm].leaky]
        return {
            control: effects(self.figure(figure), honest, control, self.judgement.beats_controls)
            for control in (CLASSICAL.name, OVERSAMPLED.name)
        }

    def twin_effects(self, figure: str = "auc") -> list[Effect]:
        """Of the candidates whose own control is another one than the tables' second, against that."""
        pairs = [(arm, BY_NAME[arm].twin or "") for arm in self.judgement.beats_controls]
        found = [effect(self.figure(figure), arm, twin) for arm, twin in pairs if twin != OVERSAMPLED.name]
        return [one for one in found if one]

    def draws(self, arm: str, name: str = "auc") -> list[float]:
        """An arm's figure in every draw that has it."""
        return list(self.figure(name).values.get(arm, {}).values())


def _values(units: Sequence[UnitResult], value: Callable[[Any], float]) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for unit in units:
        for cell in unit.cells:
            values.setdefault(cell.arm, {})[unit.seed] = value(cell)
    return values


def judge_regime(study: Study, regime: Regime, units: list[UnitResult]) -> RegimeResult:
    labels = study.dataset.splits["test"].labels
    resampled: dict[str, dict[int, np.ndarray]] = {}
    for unit in units:
        scores_of_arms = study.scores(regime, unit.seed)
        for arm in (cell.arm for cell in unit.cells):
            scores = scores_of_arms[arm]
            resampled.setdefault(arm, {})[unit.seed] = resampled_auc(scores, labels, RESAMPLINGS)
    auc = Results(_values(units, lambda cell: cell.auc), resampled)
    controls = {arm: [CLASSICAL.name, BY_NAME[arm].twin or ""] for arm in auc.values if BY_NAME[arm].candidate}
    return RegimeResult(regime, units, auc, judge(auc, controls, PRIMARY.name))


def sentence(result: RegimeResult) -> str:
    """The verdict in words and numbers; of an arm that was chosen among others its interval says so."""
    judgement, n = result.judgement, np.mean([unit.n_real for unit in result.units])
    head = f"{result.regime.name} ({n:.0f} real images): {judgement.verdict}"
    if judgement.effect is None:
        return f"{head}; fewer than two draws have all arms."
    one = judgement.effect
    helps = judgement.verdict == "helps"
    chosen = f", both corrected for {judgement.comparisons} candidates (Bonferroni, Holm)" if helps else ""
    worse = judgement.verdict == "no evidence" and one.p_value < ALPHA
    but = f"; worse than {one.control}, not than each control" if worse else ""
    text = (
        f"{head}; {one.arm} − {one.control}: AUC {one.difference:+.4f} (95 % interval {one.interval[0]:+.4f} … "
        f"{one.interval[1]:+.4f}, p = {judgement.p_value:.2g}{chosen}; {one.draws} draws{but}). "
        f"Recommended: {judgement.recommended}."
    )
    of_primary = effect(result.auc, PRIMARY.name, one.control)
    if one.arm != PRIMARY.name and of_primary:
        text += f" {PRIMARY.name}, named in advance: {of_primary.difference:+.4f} ± {of_primary.error:.4f}."
    return text + (f" Fewer than {ENOUGH} draws: read it as a first look." if one.draws < ENOUGH else "")


def baseline_line(study: Study, results: Sequence[RegimeResult]) -> str:
    """Whether the classifier without generated images is as good as MedMNIST's published one."""
    dataset = study.dataset
    published = PUBLISHED.get(dataset.name) if dataset.source == "medmnist" and dataset.image_size == 28 else None
    whole = next((result for result in results if result.regime == Regime(1.0)), None)
    if published is None:
        return "MedMNIST published no ResNet-18 for this data and image size to compare the baseline with."
    if whole is None:
        return "No regime has all real images, so the baseline cannot be compared with MedMNIST's published ResNet-18."
    auc, acc = (float(np.mean(whole.draws(CLASSICAL.name, name))) for name in ("auc", "acc"))
    reached = auc >= published[0] and acc >= published[1]
    return (
        f"{'' if reached else '**A weak baseline.** '}On all real images, without generated ones, {study.recipe.network} has AUC "
        f"{auc:.3f} and ACC {acc:.3f} ({CLASSICAL.name}); MedMNIST's published ResNet-18 (28) has {published[0]:.3f} and "
        f"{published[1]:.3f}."
    )


def write_report(
    study: Study, regimes: Sequence[Regime], units: Sequence[UnitResult], dropped: Sequence[str], command: str
) -> list[str]:
    """results.json, report.md, report.html and the plots, from the draws that have all arms; returns the verdicts as sentences."""
    results = []
    for regime in regimes:
        asked = {arm.name for arm in study.arms_of(regime)}  # an earlier command may have asked for more
        of_regime = [
            unit.model_copy(update={"cells": [cell for cell in unit.cells if cell.arm in asked]})
            for unit in units
            if unit.regime == regime and unit.cells and not unit.failed and not study.missing(regime, unit.seed)
        ]
        if of_regime:
            results.append(judge_regime(study, regime, of_regime))
    if not results:
        return []
    write_json(study.folder / "results.json", _json(study, results, dropped, command))
    text = "\n\n".join(_sections(study, results, dropped, command)) + "\n"
    write_text(study.folder / "report.md", text)
    write_text(study.folder / "report.html", as_html(text, study.folder, f"Augmentation study: {study.dataset.name}"))
    return [sentence(result) for result in results]


def _json(study: Study, results: Sequence[RegimeResult], dropped: Sequence[str], command: str) -> dict[str, Any]:
    regimes = []
    for result in results:
        one = result.judgement.effect
        regimes.append(
            {
                "regime": result.regime.name,
                "verdict": result.judgement.verdict,
                "sentence": sentence(result),
                "effect": one.difference if one else None,
                "interval": list(one.interval) if one else None,
                "p_value": result.judgement.p_value,
                "recommended": result.judgement.recommended,
                "arm": one.arm if one else None,
                "control": one.control if one else None,
                "draws": one.draws if one else 0,
                "smallest_detectable": one.detectable(result.judgement.comparisons) if one else None,
                "n_real": [unit.n_real for unit in result.units],
                "effects": [asdict(each) for found in result.effects().values() for each in found]
                + [asdict(each) for each in result.twin_effects()],
                "beats_controls": dict(result.judgement.beats_controls),
            }
        )
    return {
        "command": command,
        "dataset": describe(study.dataset),
        "classifier": asdict(study.recipe),
        "source": study.source.identity,
        "dropped": list(dropped),
        "versions": {name: version(name) for name in ("medmnist-diffusion", "torch", "diffusers", "numpy")},
        "regimes": regimes,
        "cells": [cell.model_dump() for result in results for unit in result.units for cell in unit.cells],
        "pools": [
            {"regime": result.regime.name, "seed": unit.seed, "pool": name, **figures}
            for result in results
            for unit in result.units
            for name, figures in unit.pools.items()
        ],
    }


def _sections(study: Study, results: Sequence[RegimeResult], dropped: Sequence[str], command: str) -> list[str]:
    dataset, folder = study.dataset, study.folder
    plot_learning(results, folder / "learning_curve.png")
    plot_shares(results, folder / "share_curve.png")
    plot_effects(results, folder / "effects.png")
    sections = [
        f"# Do generated images help? {dataset.name}",
        baseline_line(study, results),
        "**Synthetic phantoms, no patients: nothing here is about real images.**" if dataset.synthetic else "",
        "\n".join(f"- {sentence(result)}" for result in results),
        *(["Left out: " + "; ".join(dropped) + "."] if dropped else []),
        f"Made by `{command}`. Research only, not for diagnosis.",
        "## How to read this",
        HOW_TO_READ,
        f"![Differences to the controls](effects.png)\n\n![AUC by the number of real images](learning_curve.png)\n\n"
        f"{_worth(results)}\n\n![AUC by the share of generated images](share_curve.png)",
        "## The data",
        "\n".join(f"- {line}" for line in findings(audit(dataset))) or "The audit found nothing wrong.",
        "The generators follow the default recipe of training/train.py (cards: `generators/*/pipeline_best/README.md`), but for "
        f"`{study.source.identity}`; of each the weights with the lowest loss on the regime's validation images are used.",
    ]
    for result in results:
        sections += _of_regime(study, result)
    if any(LEAKY.name in result.arms for result in results):
        sections += ["## What a leak would have shown", _leak(results)]
    sections += ["## Which metric tells usefulness?", _usefulness(results, folder)]
    sections += ["## Limits", LIMITS]
    return [section for section in sections if section]


HOW_TO_READ = (
    "Every draw (seed) takes another subset of the real images, trains a generator **on that subset alone**, and "
    "classifiers that share the subset, the generator, the first weights and the order of the real images. Test images "
    "choose nothing, but for which arm is named where several help. All classifiers take the same number of steps, choose "
    "among the same learning rates and stop by validation loss, on a validation set as small as the regime. Sixteen images "
    "of a batch share an augmentation. Figures are MedMNIST's own AUC and ACC.\n\n"
    f"*{CLASSICAL.name}*: real images, shifted, rotated and changed in brightness. *{OVERSAMPLED.name}*: the same, with a "
    f"quarter of each batch from the real images again, each class equally often: what *{PRIMARY.name}* does, without new "
    f"images. An arm helps if it beats *{CLASSICAL.name}* **and** the oversampled arm of its own share, after Holm's "
    "correction for all candidate arms. The interval holds the draw of subset, generator and classifier, and of the test "
    f"images. The AUC was named in advance as the figure of the verdict, and *{PRIMARY.name}* as the arm that must not harm. "
    "Adding draws after a verdict was seen makes another study, whose p-values are too small."
)
LIMITS = (
    "- One data set, one test set, one family of generators and classifiers, at the image size that is given above.\n"
    "- Each regime's verdict is tested by itself at 5 %: of twenty regimes without any effect, one may seem to have one.\n"
    "- The generator's default recipe was found on all of PneumoniaMNIST's training images: for that set, its choice has "
    "seen more than a regime's images.\n"
    "- With all real images every draw has the same ones, and the spread is that of generator and classifier alone; large "
    "shares overlap.\n"
    "- All arms choose among two learning rates; longer tuning could move any of them.\n"
    "- The metrics of the generated images are against the whole training set, which no arm of a small regime saw: they "
    "explain, and choose nothing."
)


def _of_regime(study: Study, result: RegimeResult) -> list[str]:
    head = ["arm", *NAMES.values(), "distinct generated images", "better than both controls, p (Holm)"]
    rows = []
    for arm in result.arms:
        note = " (a leak: not comparable)" if BY_NAME[arm].leaky else ""
        distinct = np.mean([cell.n_synthetic for unit in result.units if (cell := unit.cell(arm))])
        p_value = f"{result.judgement.beats_controls[arm]:.2g}" if arm in result.judgement.beats_controls else ""
        figures = [mean_and_spread(result.draws(arm, name)) for name in FIGURES]
        rows.append([arm + note, *figures, f"{distinct:.0f}", p_value])
    tests = []
    by_figure = {
        name: {
            (one.arm, one.control): one
            for found in (*result.effects(name).values(), result.twin_effects(name))
            for one in found
        }
        for name in HIGHER
    }
    for key, one in by_figure["auc"].items():
        corrected = f"{one.corrected_p_value:.2g}" if one.corrected_p_value != one.p_value else ""
        tests.append(
            [*key, *(_difference(by_figure[name].get(key)) for name in HIGHER),
             f"{one.interval[0]:+.4f} … {one.interval[1]:+.4f}", f"{one.p_value:.2g}", corrected]
        )  # fmt: skip
    counts = result.units[0].n_real_per_class
    per_class = ", ".join(f"{count} × {study.dataset.id2label[label]}" for label, count in enumerate(counts))
    judgement, found = result.judgement, ""
    if judgement.effect:
        found = (
            f" A candidate arm's effect of about {judgement.effect.detectable(judgement.comparisons):.4f} over a control would "
            "have been found in four cases of five; over two controls that are equally hard to beat, in fewer."
        )
    pictures = []
    path = picture_path(study, result.regime)
    if path.is_file() and (study.dataset.synthetic or study.dataset.license in OPEN_LICENSES):
        pictures = [f"![Real and generated images]({path.name})"]
    recalls = _recalls(study, result)
    return [
        f"## {result.regime.name}",
        f"{per_class}; {result.units[0].n_val} validation images; {len(result.units)} draws.{found}",
        *pictures,
        markdown_table(head, rows),
        "Differences ± standard error (AUC: of the draws and the test set; the others: of the draws alone):",
        markdown_table(["arm", "−", *HIGHER.values(), "95 % interval, AUC", "p, AUC", "Holm"], tests),
        recalls,
    ]


def _recalls(study: Study, result: RegimeResult) -> str:
    arms = [arm for arm in (CLASSICAL.name, OVERSAMPLED.name, PRIMARY.name) if arm in result.arms]
    rows = []
    for arm in arms:
        recall = np.array([cell.recall for unit in result.units if (cell := unit.cell(arm))])
        rows.append([arm, *(mean_and_spread(list(column)) for column in recall.T)])
    return markdown_table(["recall", *study.dataset.id2label.values()], rows)


def _difference(one: Effect | None) -> str:
    return "–" if one is None else f"{one.difference:+.4f} ± {one.error:.4f}"


def _worth(results: Sequence[RegimeResult]) -> str:
    """How many real images the classical arm would need for what the primary arm reaches, on its learning curve."""
    whole = [result for result in results if result.regime.rare_share == 1 and result.draws(CLASSICAL.name)]
    curve = sorted(
        (float(np.mean([unit.n_real for unit in result.units])), float(np.mean(result.draws(CLASSICAL.name))))
        for result in whole
    )
    counts, auc = np.log([count for count, _ in curve]), np.maximum.accumulate([value for _, value in curve])

    def worth(reached: float) -> str:
        if reached > auc[-1]:
            return f"more than {np.exp(counts[-1]):.0f}"
        if reached < auc[0]:
            return f"fewer than {np.exp(counts[0]):.0f}"
        return f"{np.exp(np.interp(reached, auc, counts)):.0f}"

    lines = []
    for result in whole:
        gain = effect(result.auc, PRIMARY.name, CLASSICAL.name)
        if gain:
            base = float(np.mean(result.draws(CLASSICAL.name)))
            low, middle, high = (
                worth(base + value) for value in (gain.interval[0], gain.difference, gain.interval[1])
            )
            n = float(np.mean([unit.n_real for unit in result.units]))
            lines.append(
                f"- {n:.0f} real images with generated ones ({PRIMARY.name}) do what {middle} ({low} … {high}) do without."
            )
    if not lines:
        return ""
    return (
        "On the learning curve of real images (between its points by the logarithm; the interval is that of the difference to "
        f"*{CLASSICAL.name}*, the curve's own is not in it):\n\n" + "\n".join(lines)
    )


def _leak(results: Sequence[RegimeResult]) -> str:
    head = [
        "regime",
        f"honest: {PRIMARY.name} − {CLASSICAL.name}",
        f"leaky: {LEAKY.name} − {CLASSICAL.name}",
        "inflated by",
    ]
    rows = []
    for result in results:
        values = [
            effect(result.auc, *pair)
            for pair in ((PRIMARY.name, CLASSICAL.name), (LEAKY.name, CLASSICAL.name), (LEAKY.name, PRIMARY.name))
        ]
        if values[1] is not None and result.regime != Regime(1.0):
            rows.append([result.regime.name, *map(_difference, values)])
    return (
        "The leaky arm's generator saw the whole training set, the classifier's real images were those of the regime, as in many "
        "published gains. It is shown to measure that mistake, and has no verdict.\n\n" + markdown_table(head, rows)
    )


def _usefulness(results: Sequence[RegimeResult], folder: Path) -> str:
    """Rank correlation of each metric with the gain over all draws and pools, and a plot."""
    using = {"plain": PRIMARY.name, "guided": "guided-25", "variants": "variants-25"}
    gains: list[float] = []
    metrics: dict[str, list[float]] = {}
    for result in results:
        for unit in result.units:
            control = unit.cell(CLASSICAL.name)
            for pool, measured in unit.pools.items():
                cell = unit.cell(using.get(pool, ""))
                if control and cell and measured:
                    gains.append(cell.auc - control.auc)
                    for name in sorted({*metrics, *measured}):
                        values = metrics.setdefault(name, [np.nan] * (len(gains) - 1))
                        values.append(measured.get(name, np.nan))
    if len(gains) < 4:
        return "Too few generators for a correlation."
    rows, gain = [], np.array(gains)
    for name, of_pools in metrics.items():
        figures = np.array(of_pools)
        known = np.isfinite(figures)
        if known.sum() >= 4 and np.ptp(figures[known]) > 0 and np.ptp(gain[known]) > 0:
            found = spearmanr(figures[known], gain[known])
            rows.append([name, f"{found.statistic:+.2f}", str(int(known.sum()))])
    plot_usefulness(metrics, gain, folder / "usefulness.png")
    return (
        "Gain: AUC of the 25 % arm that uses a pool − *classical*, of the same draw. Distances, precision and the like are figure "
        "÷ floor. Draws of different regimes stand together, so that a correlation may be that of the number of real images, and "
        "the pools of one draw share a control: no p-value is given.\n\n"
        + markdown_table(["metric", "rank correlation with the gain", "pools"], rows)
        + "\n\n![Metrics and gain](usefulness.png)"
    )


def as_html(text: str, folder: Path, title: str) -> str:
    """One file that needs no other: the Markdown's pictures stand in it."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inlined(match: re.Match[str]) -> str:
        path = folder / match[1]
        kind = mimetypes.guess_type(path.name)[0]
        return f'src="data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = re.sub(r'src="([^":]+\.png)"', inlined, body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )


def plot_learning(results: Sequence[RegimeResult], path: Path) -> None:
    """AUC against the number of real images, a line an arm; a dot a draw."""
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    whole = [result for result in results if result.regime.rare_share == 1]
    for at, arm in enumerate(("real", CLASSICAL.name, OVERSAMPLED.name, PRIMARY.name, "synthetic-only")):
        points = [(np.mean([unit.n_real for unit in result.units]), result.draws(arm)) for result in whole]
        points = [(n * 1.03 ** (at - 2), values) for n, values in points if values]
        if points:
            axes.plot(
                [n for n, _ in points], [np.mean(values) for _, values in points], "o-", color=f"C{at}", label=arm
            )
            for n, values in points:
                axes.plot([n] * len(values), values, ".", color=f"C{at}", alpha=0.35)
    axes.set(xscale="log", xlabel="real training images", ylabel="test AUC")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path, REPORT_DPI)


def plot_shares(results: Sequence[RegimeResult], path: Path) -> None:
    """AUC against the share of generated images in a batch, a panel a regime; bars are standard deviations over draws."""
    figure, axes = plt.subplots(
        1, len(results), figsize=(2.6 * len(results), 2.8), squeeze=False, constrained_layout=True
    )
    for axis, result in zip(axes[0], results, strict=True):
        known = [arm for arm in SHARE_CURVE if result.draws(arm)]
        values = [result.draws(arm) for arm in known]
        shares = [100 * BY_NAME[arm].share for arm in known]
        axis.errorbar(
            shares, [np.mean(v) for v in values], [np.std(v, ddof=len(v) > 1) for v in values], marker="o", capsize=3
        )
        axis.set_title(result.regime.name, fontsize=8)
        axis.set(xlabel="generated, % of a batch")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test AUC")
    save_figure(figure, path, REPORT_DPI)


def plot_effects(results: Sequence[RegimeResult], path: Path) -> None:
    """Every arm − each control with its interval, a panel a regime."""
    arms = [arm for arm in results[0].arms if arm != CLASSICAL.name and not BY_NAME[arm].leaky]
    figure, axes = plt.subplots(
        1, len(results), figsize=(2.2 + 2.5 * len(results), 1.2 + 0.3 * len(arms)), sharey=True, squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for axis, result in zip(axes[0], results, strict=True):
        for which, (control, found) in enumerate(result.effects().items()):
            for one in found:
                y = arms.index(one.arm) + 0.2 * (2 * which - 1) if one.arm in arms else None
                if y is not None:
                    axis.plot(one.interval, [y, y], color=f"C{which}")
                    axis.plot(one.difference, y, "o", ms=4, color=f"C{which}")
            axis.plot([], [], "o-", color=f"C{which}", label=f"− {control}")
        axis.axvline(0, color="0.5", lw=1)
        axis.set_title(result.regime.name, fontsize=8)
        axis.set(xlabel="difference in AUC")
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(range(len(arms)), arms, fontsize=8)
    axes[0][0].invert_yaxis()
    axes[0][0].legend(fontsize=7)
    save_figure(figure, path, REPORT_DPI)


def plot_usefulness(metrics: dict[str, list[float]], gain: np.ndarray, path: Path) -> None:
    """The gain against each metric; a dot a generator's pool."""
    columns = 4
    figure, axes = plt.subplots(
        -(-len(metrics) // columns), columns, figsize=(11, 2.2 * -(-len(metrics) // columns)), squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes.flat, metrics.items(), strict=False):
        axis.plot(values, gain, ".", alpha=0.5)
        axis.set_title(name, fontsize=8)
        axis.axhline(0, color="0.5", lw=1)
        axis.grid(alpha=0.3)
    save_figure(figure, path, REPORT_DPI)
