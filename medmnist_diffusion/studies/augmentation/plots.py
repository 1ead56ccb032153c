"""The augmentation study's plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.studies.augmentation.arms import (
    BY_NAME,
    CLASSICAL,
    MAIN_ARM,
    OVERSAMPLED,
    ClassifierArm,
    PoolName,
)
from medmnist_diffusion.studies.augmentation.verdicts import LOST, NAMES, TOLD_APART, RegimeResult
from medmnist_diffusion.studies.reports import panels

WIDTH = 4.2  # of a panel, inches
POOLS: dict[str, PoolName] = {"generated": "plain", "real again": "real"}


def plot_learning(results: Sequence[RegimeResult], path: Path) -> None:
    """AUC against the number of real images, a line an arm; a dot a draw."""
    whole = [result for result in results if result.regime.rare_share == 1]
    with panels(path, [""], (7, 4.2)) as (axes,):
        for at, arm in enumerate(("real", CLASSICAL.name, OVERSAMPLED.name, MAIN_ARM.name, "synthetic-only")):
            points = [(result.n_real * 1.03 ** (at - 2), values) for result in whole if (values := result.of(arm))]
            if points:
                means = [np.mean(values) for _, values in points]
                axes.plot([n for n, _ in points], means, "o-", color=f"C{at}", label=arm)
            for n, values in points:
                axes.plot([n] * len(values), values, ".", color=f"C{at}", alpha=0.35)
        axes.set(xscale="log", xlabel="real training images", ylabel="test AUC")
        axes.legend(fontsize=8)


def plot_shares(results: Sequence[RegimeResult], path: Path) -> bool:
    """AUC against the share of generated images in a batch, and of real images again, a panel a regime; bars are standard
    deviations over draws. False where there are too few shares for a curve."""
    if all(len(_by_share(result, "plain")) < 3 for result in results):
        return False
    with panels(path, [result.regime.name for result in results], (WIDTH, 2.6)) as axes:
        for axis, result in zip(axes, results, strict=True):
            for at, (label, pool) in enumerate(POOLS.items()):
                known = _by_share(result, pool)
                values = [result.of(arm) for arm in known]
                shares = [100 * BY_NAME[arm].share + at for arm in known]
                spreads = [np.std(v, ddof=len(v) > 1) for v in values]
                axis.errorbar(shares, [np.mean(v) for v in values], spreads, marker="o", capsize=3, label=label)
            axis.set(xlabel="% of a batch", ylabel="test AUC")
        axes[0].legend(fontsize=8)
    return True


def _by_share(result: RegimeResult, pool: PoolName) -> list[str]:
    """The classical arm, and those that differ from it only by a share of every batch from the pool, by that share."""
    alike = [arm for arm in result.arms if BY_NAME[arm] == ClassifierArm(arm, share=BY_NAME[arm].share, pool=pool)]
    return sorted(dict.fromkeys([CLASSICAL.name, *alike]), key=lambda arm: BY_NAME[arm].share)


def plot_effects(results: Sequence[RegimeResult], path: Path) -> None:
    """Every arm − each control with its interval, a panel a regime."""
    arms = [arm for arm in BY_NAME if arm != CLASSICAL.name and not BY_NAME[arm].leaky]
    arms = [arm for arm in arms if any(arm in result.arms for result in results)]
    with panels(path, [result.regime.name for result in results], (WIDTH, 1.1 + 0.24 * len(arms))) as axes:
        for axis, result in zip(axes, results, strict=True):
            against = result.effects(result.situation.figure)
            offsets = np.linspace(-0.2, 0.2, max(2, len(against)))
            for which, (control, found) in enumerate(against.items()):
                for one in found:
                    y = arms.index(one.arm) + offsets[which]
                    axis.plot(one.interval, [y, y], color=f"C{which}")
                    axis.plot(one.difference, y, "o", ms=4, color=f"C{which}")
                axis.plot([], [], "o-", color=f"C{which}", label=f"− {control}")
            axis.axvline(0, color="0.5", lw=1)
            axis.set(xlabel=f"difference in {NAMES[result.situation.figure]}")
            axis.set_yticks(range(len(arms)), arms, fontsize=8)
            axis.invert_yaxis()
        axes[0].legend(fontsize=7)


def plot_trade_off(regimes: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> bool:
    """What classifiers of generated images alone lose in AUC, with its interval, against what an attacker learns from their
    generator; a panel a regime. False where nothing is known."""
    if not any(regimes.values()):
        return False
    with panels(path, list(regimes), (WIDTH, 3.2)) as axes:
        for axis, rows in zip(axes, regimes.values(), strict=True):
            for at, row in enumerate(rows):
                (low, high), attack = row["interval"], row["attack"]
                beside = attack["auc"] + 0.001 * (at - (len(rows) - 1) / 2)  # arms of one generator share their attack
                axis.plot([beside, beside], [low, high], color=f"C{at}")
                axis.plot(beside, row["effect"], "o", ms=4, color=f"C{at}", label=row["arm"])
            axis.axhline(0, color="0.5", lw=1)
            axis.axhline(-LOST, color="0.5", lw=1, ls="--")
            axis.axvline(TOLD_APART, color="0.5", lw=1, ls="--")
            axis.set(xlabel="AUC of the attack on the generator", ylabel="AUC − that of real images")
        axes[0].legend(fontsize=7)
    return True


def plot_usefulness(pools: Sequence[tuple[str, dict[str, float], float]], path: Path) -> None:
    """The gain against each metric; a dot a pool of generated images, a colour a regime."""
    names = sorted({name for _, measured, _ in pools for name in measured})
    regimes = list(dict.fromkeys(regime for regime, _, _ in pools))
    with panels(path, names, (WIDTH, 2.2)) as axes:
        for axis, name in zip(axes, names, strict=True):
            for regime in regimes:
                dots = [
                    (measured[name], gain) for each, measured, gain in pools if each == regime and name in measured
                ]
                axis.plot([value for value, _ in dots], [gain for _, gain in dots], ".", alpha=0.6, label=regime)
            axis.axhline(0, color="0.5", lw=1)
        axes[0].legend(fontsize=7)
