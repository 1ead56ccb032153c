"""The augmentation study's report, all from its units: results.json, report.md and its twin report.html."""

import base64
import mimetypes
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from medmnist_diffusion.data.audit import audit, describe, findings
from medmnist_diffusion.files import write_json, write_text
from medmnist_diffusion.metrics.table import METRICS
from medmnist_diffusion.publish.card import OPEN_LICENSES
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, LEAKY, OVERSAMPLED, PRIMARY
from medmnist_diffusion.studies.augmentation.effects import Effect, mean_interval
from medmnist_diffusion.studies.augmentation.generators import GUIDANCE, STRENGTH
from medmnist_diffusion.studies.augmentation.insights import Insights
from medmnist_diffusion.studies.augmentation.plots import plot_effects, plot_learning, plot_shares, plot_usefulness
from medmnist_diffusion.studies.augmentation.regimes import Regime
from medmnist_diffusion.studies.augmentation.units import Study, UnitResult, picture_path
from medmnist_diffusion.studies.augmentation.verdicts import (
    NAMES,
    RegimeResult,
    baseline_line,
    difference,
    interval,
    judge_regime,
    sentence,
)
from medmnist_diffusion.studies.tables import markdown_table

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:0 1rem;color:#222}
.picture{overflow-x:auto}
.picture img{max-width:max(100%,36rem);height:auto}
table{display:block;overflow-x:auto;border-collapse:collapse;font-size:.9em}
td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}
code{overflow-wrap:anywhere;background:#f4f4f4}
"""


def write_report(
    study: Study, regimes: Sequence[Regime], units: Sequence[UnitResult], dropped: Sequence[str], command: str
) -> list[str]:
    """results.json, report.md, report.html and the plots, from the draws that have all arms; returns the verdicts as sentences."""
    results, dropped = [], list(dropped)
    for regime in regimes:
        asked = {arm.name for arm in study.arms_of(regime)}  # an earlier command may have asked for more
        whole = [
            unit
            for unit in units
            if unit.regime == regime
            and unit.cells
            and not unit.failed
            and not study.of(regime, unit.seed).missing(regime, unit.seed)
        ]
        more = sorted({cell.arm for unit in whole for cell in unit.cells} - asked)
        if more:
            dropped.append(f"{regime.name}: {', '.join(more)} (trained by an earlier command, in no correction here)")
        unmeasured = sum(len(set(study.pools_of(unit)) - set(unit.pools)) for unit in whole)
        if unmeasured:
            dropped.append(f"{regime.name}: the metrics of {unmeasured} pools of generated images")
        if whole:
            results.append(judge_regime(study, regime, [_asked_for(study, unit) for unit in whole]))
    if not results:
        return []
    insights = Insights.of(results)
    write_json(study.folder / "results.json", _json(study, results, insights, dropped, command))
    text = "\n\n".join(_sections(study, results, insights, dropped, command)) + "\n"
    write_text(study.folder / "report.md", text)
    write_text(study.folder / "report.html", as_html(text, study.folder, f"Augmentation study: {study.dataset.name}"))
    return [sentence(result) for result in results]


def _asked_for(study: Study, unit: UnitResult) -> UnitResult:
    asked, pools = {arm.name for arm in study.arms_of(unit.regime)}, study.pools_of(unit)
    cells = [cell for cell in unit.cells if cell.arm in asked]
    return unit.model_copy(
        update={"cells": cells, "pools": {name: unit.pools[name] for name in pools if name in unit.pools}}
    )


def _json(
    study: Study, results: Sequence[RegimeResult], insights: Insights, dropped: Sequence[str], command: str
) -> dict[str, Any]:
    return {
        "command": command,
        "dataset": describe(study.dataset).model_dump(),
        "classifier": {name: value for name, value in asdict(study.recipe).items() if name != "precision"},  # a cell's own
        "sources": _sources(study, results),
        "dropped": dropped,
        "versions": {name: version(name) for name in ("medmnist-diffusion", "torch", "diffusers", "numpy")},
        "regimes": [_regime_json(result) for result in results],
        "worth": [{**row, "interval": [_finite(end) for end in row["interval"]], "worth": _finite(row["worth"])}
                  for row in insights.worth],
        "leak": [
            {name: asdict(value) if isinstance(value, Effect) else value for name, value in row.items()} for row in insights.leak
        ],
        "correlations": insights.correlations,
        "cells": [
            {**cell.model_dump(), "precision": precision}
            for result in results
            for unit in result.units
            for precision in [study.of(unit.regime, unit.seed).recipe.precision]
            for cell in unit.cells
        ],
        "pools": [
            {"regime": result.regime.name, "seed": unit.seed, "pool": name, **figures}
            for result in results
            for unit in result.units
            for name, figures in unit.pools.items()
        ],
    }  # fmt: skip


def _regime_json(result: RegimeResult) -> dict[str, Any]:
    judgement, one = result.judgement, result.judgement.effect
    arms = {
        arm: {
            name: dict(zip(("mean", "low", "high"), mean_interval(of_arms, arm), strict=True))
            for name, of_arms in result.figures.items()
        }
        for arm in result.arms
    }  # fmt: skip
    return {
        "regime": result.regime.name,
        "verdict": judgement.verdict,
        "sentence": sentence(result),
        "effect": one.difference if one else None,
        "interval": list(one.interval) if one else None,
        "p_value": judgement.p_value,
        "recommended": judgement.recommended,
        "arm": one.arm if one else None,
        "control": one.control if one else None,
        "draws": one.draws if one else 0,
        "comparisons": judgement.comparisons,
        "smallest_detectable": one.detectable(judgement.comparisons) if one else None,
        "n_real": [unit.n_real for unit in result.units],
        "arms": _finite_all(arms),
        "effects": {
            name: [asdict(each) for found in result.effects(name).values() for each in found]
            for name in result.figures
        },
        "beats_controls": dict(judgement.beats_controls),
    }


def _finite(value: float) -> float | str:
    """JSON knows no infinity."""
    return value if np.isfinite(value) else "beyond the curve"


def _finite_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite_all(each) for name, each in value.items()}
    return value if np.isfinite(value) else None


def _sections(
    study: Study, results: Sequence[RegimeResult], insights: Insights, dropped: Sequence[str], command: str
) -> list[str]:
    dataset, folder = study.dataset, study.folder
    plot_learning(results, folder / "learning_curve.png")
    plot_effects(results, folder / "effects.png")
    shares = plot_shares(results, folder / "share_curve.png")
    arms = [arm for arm in BY_NAME if any(arm in result.arms for result in results)]
    sections = [
        f"# Do generated images help? {dataset.name}",
        baseline_line(study, results),
        "**Synthetic phantoms, no patients: nothing here is about real images.**" if dataset.synthetic else "",
        "\n".join(f"- {sentence(result)}" for result in results),
        *(["Left out: " + "; ".join(dropped) + "."] if dropped else []),
        "Research only, not for diagnosis.",
        "## How to read this",
        HOW_TO_READ,
        markdown_table(["arm", "what a classifier is trained on"], [[arm, BY_NAME[arm].description] for arm in arms]),
        "## The differences",
        "![Differences to the controls](effects.png)\n\n![AUC by the number of real images](learning_curve.png)",
        _worth(insights),
        "![AUC by the share of other images in a batch](share_curve.png)" if shares else "",
        *_data_and_recipes(study, results),
    ]
    for result in results:
        sections += _of_regime(study, result)
    if any(LEAKY.name in result.arms for result in results):
        sections += ["## What a leak would have shown", _leak(results, insights)]
    sections += ["## Which metric tells usefulness?", _usefulness(insights, folder)]
    sections += ["## Limits", LIMITS]
    sections += ["## Commands", _commands(dataset.name, results, command)]
    return [section for section in sections if section]


HOW_TO_READ = (
    "Every draw (seed) takes another subset of the real images (at 100 % all of them), trains a generator **on that subset "
    "alone**, and classifiers that share the subset, the generator, the first weights and the order of the real images. Test "
    "images choose no training, threshold or stopping; they do choose which arm is named where several help. All classifiers take "
    "the same number of steps, choose among the same learning rates and stop by validation loss, on a validation set as small as "
    "the regime. Sixteen images of a batch share an augmentation. Figures are MedMNIST's own AUC and ACC; ECE, the calibration "
    "error, is better the lower it is.\n\n"
    f"An arm helps if its AUC beats *{CLASSICAL.name}* **and** the oversampled arm of its own share, which fills the same places "
    "of a batch with real images again, after Holm's correction for all candidate arms (those of augmented real images and "
    f"generated ones). Where none helps, generated images harm if *{PRIMARY.name}*, the arm named in advance, is worse than both "
    "controls. Without help the recommendation is the classical arm, unless another one without generated images is better. "
    "Intervals are 95 % ones and hold the draw of subset, generator and classifier, and of the test images. Adding draws after a "
    "verdict was seen makes another study, whose p-values are too small."
)
LIMITS = (
    "- One data set, one test set, one family of generators and classifiers, at the image size that is given above.\n"
    "- Each regime's verdict is tested by itself at 5 %: of twenty regimes without any effect, one may seem to have one.\n"
    "- The generator's default recipe was found on all of PneumoniaMNIST's training images: for that set, its choice has "
    "seen more than a regime's images.\n"
    "- With all real images every draw has the same ones, and the spread is that of generator and classifier alone; large "
    "shares overlap.\n"
    "- All arms choose among the same few learning rates; longer tuning could move any of them.\n"
    "- The metrics of the generated images are against the whole training set, which no arm of a small regime saw: they "
    "explain, and choose nothing."
)


def _data_and_recipes(study: Study, results: Sequence[RegimeResult]) -> list[str]:
    """What the study was made of: the audit, the generators and the classifiers."""
    dataset, report = study.dataset, audit(study.dataset)
    rows = [
        [name, str(split.images), *(str(count) for count in split.per_class.values())]
        for name, split in report.splits.items()
    ]
    recipe = study.recipe
    rates = " or ".join(f"{rate:g}" for rate in recipe.learning_rates)
    return [
        "## The data",
        f"{dataset.name}, {dataset.image_size}×{dataset.image_size} pixels, licence {dataset.license}.",
        markdown_table(["images", "all", *dataset.id2label.values()], rows),
        "\n".join(f"- {line}" for line in findings(report)) or "The audit found nothing wrong.",
        "## The generators and the classifiers",
        "Generators follow the default recipe of training/train.py, but for what is listed here (JSON); of each the weights with "
        "the lowest loss on the regime's validation images are used. An image's label is the one that was asked for.",
        "\n".join(f"- {count} draws: `{identity}`" for identity, count in _sources(study, results).items()),
        markdown_table(
            ["generators", "draws", "trained on", "best step", "held-out loss"],
            [_generators(study, result) for result in results],
        ),
        f"Classifiers: {recipe.network}, {recipe.steps} steps of {recipe.batch_size} images, AdamW with a largest learning rate "
        f"of {rates} (one cycle) and a weight decay of {recipe.weight_decay:g}.",
    ]  # fmt: skip


def _generators(study: Study, result: RegimeResult) -> list[str]:
    """A row on the generators that are still in the study's folder."""
    summaries = [study.of(unit.regime, unit.seed).source.summary(unit.regime, unit.seed) for unit in result.units]
    found = [one for one in summaries if one]
    count = f"{len(found)} of {len(summaries)}" if len(found) < len(summaries) else str(len(summaries))
    if not found:
        return [result.regime.name, count, *["–"] * 3]
    images, steps, losses = ([one[name] for one in found] for name in ("training_images", "step", "val_loss"))
    budget = found[0]["max_train_steps"]
    return [
        result.regime.name,
        count,
        f"{_from_to(images)} images",
        f"{_from_to(steps)} of {budget}" + (": more would be better" if np.median(steps) == budget else ""),
        f"{np.mean(losses):.4f} ± {np.std(losses, ddof=len(losses) > 1):.4f}",
    ]


def _from_to(values: list[int]) -> str:
    return f"{min(values)} … {max(values)}" if min(values) < max(values) else str(values[0])


def _sources(study: Study, results: Sequence[RegimeResult]) -> dict[str, int]:
    """The generators' settings, and how many draws have them: a study may move to a machine of another precision."""
    units = [unit for result in results for unit in result.units]
    return dict(Counter(study.of(unit.regime, unit.seed).source.identity for unit in units).most_common())


def _of_regime(study: Study, result: RegimeResult) -> list[str]:
    head = ["arm", *NAMES.values(), "distinct generated images", "better than both controls, p (Holm)"]
    rows = []
    for arm in result.arms:
        note = " (a leak: not comparable)" if BY_NAME[arm].leaky else ""
        distinct = np.mean([cell.n_synthetic for unit in result.units if (cell := unit.cell(arm))])
        p_value = f"{result.judgement.beats_controls[arm]:.2g}" if arm in result.judgement.beats_controls else ""
        rows.append([arm + note, *(_mean(result, name, arm) for name in NAMES), f"{distinct:.0f}", p_value])
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
    recalls = [
        [arm, *(_mean(result, f"recall_{label}", arm) for label in study.dataset.id2label)] for arm in result.arms
    ]
    return [
        f"## {result.regime.name}",
        f"{per_class}; {result.units[0].n_val} validation images; {len(result.units)} draws.{found}",
        *pictures,
        "Means over draws (95 % interval):",
        markdown_table(head, rows),
        "Differences, the first column − the second (95 % interval, not corrected for their number). Holm: p of the AUC, "
        "corrected for all candidate arms against this kind of control; the other arms' p are not corrected.",
        _effects_table(result),
        "Recall by class (95 % interval):",
        markdown_table(["arm", *study.dataset.id2label.values()], recalls),
    ]


def _mean(result: RegimeResult, name: str, arm: str) -> str:
    mean, low, high = mean_interval(result.figures[name], arm)
    return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} ({low:.3f} … {high:.3f})"


def _effects_table(result: RegimeResult) -> str:
    by_figure = {
        name: {(one.arm, one.control): one for found in result.effects(name).values() for one in found}
        for name in NAMES
    }
    rows = []
    for key, one in by_figure["auc"].items():
        corrected = f"{one.corrected_p_value:.2g}" if one.arm in result.judgement.beats_controls else ""
        cells = [_with_interval(by_figure[name][key]) for name in NAMES]
        rows.append([*key, cells[0], f"{one.p_value:.2g}", corrected, *cells[1:]])
    auc, *others = NAMES.values()
    return markdown_table(["arm", "−", auc, "p", "Holm", *others], rows)


def _with_interval(one: Effect) -> str:
    return f"{difference(one)} ({interval(one)})"


def _worth(insights: Insights) -> str:
    rows = insights.worth
    if not rows:
        return ""
    known = [row["n_real"] for row in rows]

    def shown(count: float) -> str:
        if count > known[-1]:
            return f"more than {known[-1]:.0f}"
        return f"fewer than {known[0]:.0f}" if count < known[0] else f"{count:.0f}"

    lines = []
    for row in rows:
        low, high = row["interval"]
        told = f"{shown(row['worth'])} ({shown(low)} … {shown(high)})"
        if low < known[0] and high > known[-1]:
            told = "anything between: the curve does not tell"
        lines.append(
            f"- {row['n_real']:.0f} real images with generated ones ({PRIMARY.name}) do what {told} do without."
        )
    return (
        f"How many real images the generated ones are worth, on the learning curve of *{CLASSICAL.name}* (rising, between its "
        "points by the logarithm; 95 % interval of a bootstrap over draws and test sets; where the curve is level, a small gain "
        "or loss is worth many images):\n\n" + "\n".join(lines)
    )


def _leak(results: Sequence[RegimeResult], insights: Insights) -> str:
    head = [
        "regime", f"honest: {PRIMARY.name} − {CLASSICAL.name}", f"leaky: {LEAKY.name} − {CLASSICAL.name}",
        f"inflated by: {LEAKY.name} − {PRIMARY.name}", "p of that", "honest verdict", "the leak's would be",
    ]  # fmt: skip
    verdicts = {result.regime.name: result.judgement.verdict for result in results}
    rows = [
        [
            row["regime"],
            *(_with_interval(row[name]) for name in ("honest", "leaky", "inflated_by")),
            f"{row['inflated_by'].p_value:.2g}",
            verdicts[row["regime"]],
            row["verdict_of_the_leak"],
        ]
        for row in insights.leak
    ]
    return (
        "The leaky arm's generator saw the whole training set, the classifier's real images were those of the regime, as in many "
        "published gains. It is shown to measure that mistake, and has no verdict in this study: the last column is what a paper "
        f"would have found that took it for an honest arm (against *{CLASSICAL.name}* and *{OVERSAMPLED.name}*). Differences "
        "in AUC (95 % interval). With 100 % of the real images there is nothing to leak.\n\n"
        + markdown_table(head, rows)
    )


def _usefulness(insights: Insights, folder: Path) -> str:
    """Rank correlation of each metric with the gain over all draws and pools, and a plot."""
    rows = [
        [
            row["metric"],
            METRICS[row["metric"].partition(",")[0]].better,
            _correlation(row["all"]),
            _correlation(row["within_regimes"]),
            str(row["pools"]),
        ]
        for row in insights.correlations
    ]
    if not any(row[2] != "–" for row in rows):
        return "Too few generators for a correlation."
    plot_usefulness(insights.pools, folder / "usefulness.png")
    return (
        f"Gain: AUC of the 25 % arm that uses a pool of generated images − *{OVERSAMPLED.name}*, of the same draw. Distances, "
        "precision and the like are figure ÷ floor. A metric that tells usefulness has a negative correlation where lower is "
        "better. Over all pools a correlation may be that of the number of real images; the mean of those within regimes is not. "
        "The pools of one draw share a control: no p-value is given.\n\n"
        + markdown_table(["metric", "better is", "rank correlation, all", "within regimes", "pools"], rows)
        + "\n\n![Metrics and gain](usefulness.png)"
    )


def _correlation(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _commands(dataset: str, results: Sequence[RegimeResult], command: str) -> str:
    """The study's, and what makes a training set of an arm that helps."""
    helping = dict.fromkeys(result.judgement.recommended for result in results if result.judgement.verdict == "helps")
    options = {"guided": f" --guidance_scale {GUIDANCE:g}", "variants": f" --strength {STRENGTH:g}"}
    lines = [f"- This study: `{command}`"]
    for arm in (BY_NAME[name] for name in helping):
        selection = "" if arm.selection is None else f" --selection {arm.selection}"
        lines.append(
            f"- A training set like that of *{arm.name}*: `accelerate launch training/train.py --dataset {dataset} "
            f"--output_dir run`, then `medmnist-diffusion augment run/pipeline_best --dataset {dataset} --output augmented.npz "
            f"--share {arm.share:g}{options.get(arm.pool, '')}{selection}`"
        )
    return "\n".join(lines)


def as_html(text: str, folder: Path, title: str) -> str:
    """One file that needs no other: the Markdown's pictures stand in it."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inlined(match: re.Match[str]) -> str:
        path = folder / match[1]
        kind = mimetypes.guess_type(path.name)[0]
        return f'src="data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = re.sub(r'src="([^":]+\.png)"', inlined, body).replace("<p><img", '<p class="picture"><img')
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
