"""The augmentation study's report, all from its draws: results.json, report.md (by the template beside this) and report.html."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.data.audit import audit, describe, findings
from medmnist_diffusion.data.dataset import ImageDataset
from medmnist_diffusion.data.regimes import LEAST, Regime, rarest_class
from medmnist_diffusion.metrics.classifier_scores import probabilities
from medmnist_diffusion.metrics.evaluator_file import write_evaluator_file
from medmnist_diffusion.metrics.table import METRICS
from medmnist_diffusion.studies.augmentation.arms import (
    BY_NAME,
    CLASSICAL,
    LEAKY,
    MAIN_ARM,
    OVERSAMPLED,
    PoolName,
)
from medmnist_diffusion.studies.augmentation.draws import picture_path
from medmnist_diffusion.studies.augmentation.insights import Insights
from medmnist_diffusion.studies.augmentation.plots import (
    plot_effects,
    plot_learning,
    plot_shares,
    plot_trade_off,
    plot_usefulness,
)
from medmnist_diffusion.studies.augmentation.protocol import (
    AugmentationProtocol,
    ClassifierResult,
    DrawResult,
    generator_of,
)
from medmnist_diffusion.studies.augmentation.verdicts import (
    NAMES,
    RARE_PRECISION,
    RegimeResult,
    advice,
    baseline_line,
    difference,
    interval,
    judge_regime,
    mean_and_reach,
    sentence,
    trade_off,
)
from medmnist_diffusion.studies.reports import write_results
from medmnist_diffusion.studies.statistics import ArmFigures, Effect, mean_interval

OF_THE_PLAIN_ONE = ("guided", "variants")  # pools of the plain images' generator
TEMPLATE = Path(__file__).with_name("report.md.j2")


def write_report(
    protocol: AugmentationProtocol, regimes: Sequence[Regime], draws: Sequence[DrawResult], dropped: Sequence[str],
    command: str,
) -> list[str]:  # fmt: skip
    """results.json, report.md, report.html and the plots, from the draws that have all arms; returns the verdicts as sentences."""
    results, dropped, folder = [], list(dropped), protocol.folder
    for regime in regimes:
        whole, left_out = whole_draws(protocol, regime, draws)
        dropped += left_out
        if whole:
            results.append(judge_regime(protocol.dataset, regime, whole, protocol.situation, protocol.looks))
    if not results:
        return []
    insights = Insights.of(results)
    content = {"dropped": dropped, "command": command, **_content(protocol, results, insights)}
    title = f"Augmentation study: {protocol.dataset.name}"
    write_results(folder, _json(protocol, results, insights, dropped, command), TEMPLATE, content, title)
    if protocol.dataset.source == "medmnist":
        _write_evaluator_files(protocol.dataset, results, folder / "evaluator")
    return [sentence(result) for result in results]


def _write_evaluator_files(dataset: ImageDataset, results: Sequence[RegimeResult], folder: Path) -> None:
    """The test scores of every classifier, for MedMNIST's own evaluator."""
    for result in results:
        for draw in result.draws:
            for cell in draw.cells:
                run = f"{result.regime.slug}-{cell.arm}-draw{draw.seed}"
                chances = probabilities(draw.scores_of(cell.arm), dataset.conditioning.multi_label)
                write_evaluator_file(folder, dataset, chances, run)


def whole_draws(
    protocol: AugmentationProtocol, regime: Regime, draws: Sequence[DrawResult]
) -> tuple[list[DrawResult], list[str]]:
    """The regime's draws that have all arms, without what was not asked for; and what is left out."""
    asked, whole, left_out = {arm.name for arm in protocol.arms_of(regime)}, [], []
    for draw in draws:
        missing = draw.regime != regime or draw.failed or protocol.of(regime, draw.seed).missing(regime, draw.seed)
        if draw.cells and not missing and protocol.attacked(draw):
            whole.append(draw)
    if more := sorted({cell.arm for draw in whole for cell in draw.cells} - asked):  # of an earlier command
        left_out.append(f"{regime.name}: {', '.join(more)} (trained by an earlier command, in no correction here)")
    if unmeasured := sum(len(set(protocol.pools_of(draw)) - set(draw.pools)) for draw in whole):
        left_out.append(f"{regime.name}: the metrics of {unmeasured} pools of generated images")
    chosen = []
    for draw in whole:
        cells = [cell for cell in draw.cells if cell.arm in asked]
        pools = {name: draw.pools[name] for name in protocol.pools_of(draw) if name in draw.pools}
        chosen.append(draw.model_copy(update={"cells": cells, "pools": pools}))
    return chosen, left_out


def _json(
    protocol: AugmentationProtocol, results: Sequence[RegimeResult], insights: Insights, dropped: Sequence[str], command: str
) -> dict[str, Any]:  # fmt: skip
    draws = [(result.regime, draw) for result in results for draw in result.draws]
    precisions = {id(draw): protocol.of(regime, draw.seed).recipe.precision for regime, draw in draws}
    return {
        "command": command,
        "dataset": describe(protocol.dataset).model_dump(),
        "classifier": {name: value for name, value in asdict(protocol.recipe).items() if name != "precision"},  # a cell's own
        "sources": _sources(protocol, results),
        "dropped": dropped,
        **({} if protocol.situation.name == "few-images" else {"situation": protocol.situation.name}),
        **({"outside": describe(protocol.outside).model_dump()} if protocol.outside else {}),
        **({} if protocol.looks == 1 else {"looks": protocol.looks}),
        "versions": {name: version(name) for name in ("medmnist-diffusion", "torch", "diffusers", "numpy")},
        "regimes": [_regime_json(result) for result in results],
        "worth": [{**row, "interval": [_finite(end) for end in row["interval"]], "worth": _finite(row["worth"])}
                  for row in insights.worth],
        "leak": [
            {name: asdict(value) if isinstance(value, Effect) else value for name, value in row.items()} for row in insights.leak
        ],
        "correlations": insights.correlations,
        "cells": [{**_cell_json(cell), "precision": precisions[id(draw)]} for _, draw in draws for cell in draw.cells],
        "pools": [
            {"regime": regime.name, "seed": draw.seed, "pool": name, **figures}
            for regime, draw in draws
            for name, figures in draw.pools.items()
        ],
    }  # fmt: skip


def _cell_json(cell: ClassifierResult) -> dict[str, Any]:
    """What came later is left out where it is not known."""
    return cell.model_dump(exclude={name for name in ("average_precision", "held_out") if getattr(cell, name) is None})


def _regime_json(result: RegimeResult) -> dict[str, Any]:
    judgement, one = result.judgement, result.judgement.effect
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
        "smallest_detectable": result.detectable,
        "n_real": [draw.n_real for draw in result.draws],
        "arms": {
            arm: {name: _mean_json(of_arms, arm) for name, of_arms in result.figures.items()} for arm in result.arms
        },
        "effects": {
            name: [asdict(each) for found in result.effects(name).values() for each in found]
            for name in result.figures
        },
        "beats_controls": dict(judgement.beats_controls),
        "held_out": held_out_means(result),
        "held_out_effect": held_out_effect(result),
        **({"attacks": attack_means(result.draws)} if result.situation.sharing else {}),
        **({"trade_off": _trade_off_json(result)} if result.situation.sharing else {}),
    }


def _mean_json(figures: ArmFigures, arm: str) -> dict[str, float | None]:
    ends = zip(("mean", "low", "high"), mean_interval(figures, arm), strict=True)
    return {name: value if np.isfinite(value) else None for name, value in ends}


def _finite(value: float) -> float | str:
    """JSON knows no infinity."""
    return value if np.isfinite(value) else "beyond the curve"


def _sources(protocol: AugmentationProtocol, results: Sequence[RegimeResult]) -> dict[str, int]:
    """The generators' settings, and how many draws have them: a study may move to a machine of another precision."""
    draws = [draw for result in results for draw in result.draws]
    return dict(Counter(protocol.of(draw.regime, draw.seed).source.identity for draw in draws).most_common())


def _content(protocol: AugmentationProtocol, results: Sequence[RegimeResult], insights: Insights) -> dict[str, Any]:
    """What the template says, but for the command and what was left out; draws the plots."""
    dataset, folder, data = protocol.dataset, protocol.folder, audit(protocol.dataset)
    plot_learning(results, folder / "learning_curve.png")
    plot_effects(results, folder / "effects.png")
    correlations = _correlations(insights)
    if correlations:
        plot_usefulness(insights.pools, folder / "usefulness.png")
    recommended = dict.fromkeys(result.judgement.recommended for result in results)
    written = [arm for arm in recommended if BY_NAME[arm].is_a_set]
    shared = [arm for arm in recommended if protocol.situation.sharing and BY_NAME[arm].generated]
    return {
        "dataset": dataset,
        "baseline": baseline_line(dataset, protocol.recipe.network, results),
        "results": [_of_regime(protocol, result) for result in results],
        "arms": [[a, BY_NAME[a].description] for a in BY_NAME if any(a in result.arms for result in results)],
        "worth": _worth(insights),
        "shares": plot_shares(results, folder / "share_curve.png"),
        "traded": protocol.situation.sharing and plot_trade_off(_traded(results), folder / "trade_off.png"),
        "splits": [[n, *map(str, (s.images, *s.per_class.values()))] for n, s in data.splits.items()],
        "findings": findings(data),
        "sources": _sources(protocol, results),
        "generators": [row for result in results for row in _generators(protocol, result)],
        "recipe": protocol.recipe,
        "rates": " or ".join(f"{rate:g}" for rate in protocol.recipe.learning_rates),
        "leaky": any(LEAKY.name in result.arms for result in results),
        "leaks": _leaks(results, insights),
        "correlations": correlations,
        "written": [BY_NAME[name] for name in written],
        "shared": [BY_NAME[name] for name in shared],
        "looks": protocol.looks,
        "least": LEAST,
        "rarest": dataset.id2label[rarest_class(dataset)],
        "classes": list(dataset.id2label.values()),
        "several": dataset.conditioning.multi_label,
        "figures": list(NAMES.values()),
        "judged_first": [
            NAMES[protocol.situation.figure],
            *(shown for name, shown in NAMES.items() if name != protocol.situation.figure),
        ],
        "classical": CLASSICAL.name,
        "oversampled": OVERSAMPLED.name,
        "main_arm": MAIN_ARM.name,
        "situation": protocol.situation,
        "outside": protocol.outside.name if protocol.outside else None,
        "judged": NAMES[protocol.situation.figure],
        "advice": [advice(result) for result in results],
        "study_of_few": protocol.situation.name == "few-images",
        "leaky_arm": LEAKY.name,
    }


def _generators(protocol: AugmentationProtocol, result: RegimeResult) -> list[list[str]]:
    """A row for each kind of generator of a regime; those of draws that an older version made are known as long as their folders
    are there."""
    rows = []
    for pool in dict.fromkeys(
        "plain" if name in OF_THE_PLAIN_ONE else name for name in protocol.pools_of(result.draws[0])
    ):
        known = [one for draw in result.draws if (one := _summary(protocol, draw, pool))]
        name = result.regime.name if pool == "plain" else f"{result.regime.name}, {pool}"
        rows.append([name, *_of_generators(known, len(result.draws))])
    return rows


def _summary(protocol: AugmentationProtocol, draw: DrawResult, pool: PoolName) -> dict[str, Any] | None:
    if pool != "plain":
        return draw.generators.get(pool)
    others = (draw.generators[name] for name in OF_THE_PLAIN_ONE if name in draw.generators)
    known = draw.generators.get(pool) or next(others, None) or draw.generator
    return known or protocol.of(draw.regime, draw.seed).source.summary(draw.regime, draw.seed)


def _of_generators(known: Sequence[dict[str, Any]], draws: int) -> list[str]:
    """How many are known, on how many images they were trained, the step that was best, and the held-out loss there."""
    count = f"{len(known)} of {draws}" if len(known) < draws else str(len(known))
    if not known:
        return [count, "–", "–", "–"]
    steps = [summary["step"] for summary in known]
    losses = [summary["val_loss"] for summary in known]
    budget = known[0]["max_train_steps"]
    return [
        count,
        f"{_from_to([summary['training_images'] for summary in known])} images",
        f"{_from_to(steps)} of {budget}" + (": more would be better" if np.median(steps) == budget else ""),
        f"{np.mean(losses):.4f} ± {np.std(losses, ddof=len(losses) > 1):.4f}",
    ]


def _from_to(values: list[int]) -> str:
    return f"{min(values)} … {max(values)}" if min(values) < max(values) else str(values[0])


def _of_regime(protocol: AugmentationProtocol, result: RegimeResult) -> dict[str, Any]:
    """What the template says of a regime."""
    dataset, beats = protocol.dataset, result.judgement.beats_controls
    means = []
    for arm in result.arms:
        note = " (a leak: not comparable)" if BY_NAME[arm].leaky else ""
        distinct = np.mean([cell.n_synthetic for draw in result.draws if (cell := draw.cell(arm))])
        p_value = f"{beats[arm]:.2g}" if arm in beats else ""
        means.append([arm + note, *(_mean(result, name, arm) for name in NAMES), f"{distinct:.0f}", p_value])
    picture = picture_path(protocol.folder, result.regime)
    may_be_shown = picture.is_file() and (dataset.synthetic or dataset.license in OPEN_LICENSES)
    first, classes, rarest = result.draws[0], dataset.id2label, rarest_class(dataset)
    return {
        "name": result.regime.name,
        "sentence": sentence(result),
        "per_class": ", ".join(f"{count} × {classes[label]}" for label, count in enumerate(first.n_real_per_class)),
        "n_val": first.n_val,
        "draws": len(result.draws),
        "detectable": result.detectable,
        "picture": picture.name if may_be_shown else "",
        "means": means,
        "effects": _effect_rows(result),
        "held_out": _held_out_rows(result),
        "attacks": [[who, *row] for who, row in _attack_rows(result.draws)],
        "trade_off": trade_off_rows(result) if result.situation.sharing else [],
        "rare": rare_rows(result, rarest),
        "rarest": classes[rarest],
        "recalls": [[arm, *(_mean(result, f"recall_{label}", arm) for label in classes)] for arm in result.arms],
    }


def rare_rows(result: RegimeResult, label: int) -> list[list[str]]:
    """A row an arm: the rarest class's recall and average precision, and by how much each is above that of `classical`."""
    if RARE_PRECISION not in result.figures:
        return []
    names = (f"recall_{label}", RARE_PRECISION)
    above = {name: {one.arm: one for one in result.effects(name)[CLASSICAL.name]} for name in names}
    return [
        [arm, *(shown for name in names for shown in (_mean(result, name, arm), _shown(above[name].get(arm))))]
        for arm in result.arms
    ]


def _shown(one: Effect | None) -> str:
    return _with_interval(one) if one else ""


def held_out_means(result: RegimeResult) -> dict[str, dict[str, Any]]:
    """Of every arm its figures on real images that the regime left out, mean and half the interval over draws, and how many images
    these are; empty without any."""
    means: dict[str, dict[str, Any]] = {}
    for arm in result.arms:
        known = [cell.held_out for draw in result.draws if (cell := draw.cell(arm)) and cell.held_out]
        if not known:
            return {}
        means[arm] = {name: mean_and_reach([one[name] for one in known]) for name in NAMES}
        means[arm] |= {"images": round(float(np.mean([one["images"] for one in known])))}
    return means


def held_out_effect(result: RegimeResult) -> dict[str, Any] | None:
    """The verdict's comparison on these images: mean difference over draws and half its interval; None without them."""
    one, name = result.judgement.effect, result.situation.figure
    if one is None:
        return None
    pairs = [(draw.cell(one.arm), draw.cell(one.control)) for draw in result.draws]
    found = [(a.held_out[name] - b.held_out[name]) for a, b in pairs if a and b and a.held_out and b.held_out]
    if not found:
        return None
    difference, reach = mean_and_reach(found)
    return {"difference": difference, "reach": reach, "draws": len(found)}


def _held_out_rows(result: RegimeResult) -> list[list[str]]:
    """The same for the report, a row an arm."""
    rows = []
    for arm, means in held_out_means(result).items():
        figures = (means[name] for name in NAMES)
        rows.append([arm, str(means["images"]), *(f"{mean:.3f} ± {reach:.3f}" for mean, reach in figures)])
    return rows


def attack_means(draws: Sequence[DrawResult]) -> dict[str, dict[str, float]]:
    """Of every model that was attacked: how well its training images are told from others, AUC, mean and half the interval."""
    known: dict[str, list[float]] = {}
    for draw in draws:
        for who, auc in draw.attacks.items():
            known.setdefault(who, []).append(auc)
    means = {who: mean_and_reach(values) for who, values in known.items()}
    return {who: {"auc": mean, "reach": reach} for who, (mean, reach) in means.items()}


def _trade_off_json(result: RegimeResult) -> list[dict[str, Any]]:
    """A row for each arm of generated images alone: what is lost, how well its generator is attacked, and its verdict."""
    attacks = attack_means(result.draws)
    return [
        {
            "arm": arm, "verdict": judgement.verdict, "control": one.control if one else None,
            "effect": one.difference if one else None, "interval": list(one.interval) if one else None,
            "attack": attacks.get(generator_of(BY_NAME[arm].pool)),
        }
        for arm, judgement in trade_off(result).items() for one in [judgement.effect]
    ]  # fmt: skip


def trade_off_rows(result: RegimeResult) -> list[list[str]]:
    """The same for the report."""
    rows, attacks = [], dict(_attack_rows(result.draws))
    for arm, judgement in trade_off(result).items():
        one, (attack,) = judgement.effect, attacks.get(generator_of(BY_NAME[arm].pool), [""])
        rows.append([arm, _shown(one), one.control if one else "", attack, judgement.verdict])
    return rows


def _traded(results: Sequence[RegimeResult]) -> dict[str, list[dict[str, Any]]]:
    """Of each regime the rows of which both sides of the trade-off are known."""
    rows = {result.regime.name: _trade_off_json(result) for result in results}
    return {name: [row for row in of if row["interval"] and row["attack"]] for name, of in rows.items()}


def _attack_rows(draws: Sequence[DrawResult]) -> list[tuple[str, list[str]]]:
    return [(who, [f"{one['auc']:.3f} ± {one['reach']:.3f}"]) for who, one in attack_means(draws).items()]


def _mean(result: RegimeResult, name: str, arm: str) -> str:
    mean, low, high = mean_interval(result.figures[name], arm)
    return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} ({low:.3f} … {high:.3f})"


def _effect_rows(result: RegimeResult) -> list[list[str]]:
    """A row a pair of arms: the judged figure's difference with its p-values, then the other figures' differences."""
    names = [result.situation.figure, *(name for name in NAMES if name != result.situation.figure)]
    found = ([one for of_control in result.effects(name).values() for one in of_control] for name in names)
    rows = []
    for judged, *others in zip(*found, strict=True):  # every figure has the same pairs
        corrected = f"{judged.corrected_p_value:.2g}" if judged.arm in result.judgement.beats_controls else ""
        tested = [_with_interval(judged), f"{judged.p_value:.2g}", corrected]
        rows.append([judged.arm, judged.control, *tested, *map(_with_interval, others)])
    return rows


def _with_interval(one: Effect) -> str:
    return f"{difference(one)} ({interval(one)})"


def _worth(insights: Insights) -> list[dict[str, str]]:
    known, rows = [row["n_real"] for row in insights.worth], []

    def shown(count: float) -> str:
        if count > known[-1]:
            return f"more than {known[-1]:.0f}"
        return f"fewer than {known[0]:.0f}" if count < known[0] else f"{count:.0f}"

    for row in insights.worth:
        low, high = row["interval"]
        told = f"{shown(row['worth'])} ({shown(low)} … {shown(high)})"
        if low < known[0] and high > known[-1]:
            told = "anything between: the curve does not tell"
        rows.append({"n_real": f"{row['n_real']:.0f}", "told": told})
    return rows


def _leaks(results: Sequence[RegimeResult], insights: Insights) -> list[list[str]]:
    verdicts = {result.regime.name: result.judgement.verdict for result in results}
    return [
        [
            row["regime"],
            *(_with_interval(row[name]) for name in ("honest", "leaky", "inflated_by")),
            f"{row['inflated_by'].p_value:.2g}",
            verdicts[row["regime"]],
            row["verdict_of_the_leak"],
        ]
        for row in insights.leak
    ]


def _correlations(insights: Insights) -> list[list[str]]:
    """Rank correlation of each metric with the gain over all draws and pools; none where there are too few of them."""
    if all(row["all"] is None for row in insights.correlations):
        return []
    rows = []
    for row in insights.correlations:
        better = METRICS[row["metric"].split(",")[0]].better
        both = ["–" if row[name] is None else f"{row[name]:+.2f}" for name in ("all", "within_regimes")]
        rows.append([row["metric"], better, *both, str(row["pools"])])
    return rows
