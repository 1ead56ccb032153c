"""What a study says beyond its verdicts: how many real images the generated ones are worth, what a leak would have shown, and
which metric of the generated images goes with the gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmnist_diffusion.data.regimes import Regime
from medmnist_diffusion.metrics.table import METRICS
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, LEAKY, MAIN_ARM, OVERSAMPLED
from medmnist_diffusion.studies.augmentation.verdicts import RegimeResult
from medmnist_diffusion.studies.statistics import effect, judge, spearman, worth_in_real_images, worth_interval

# Of each pool the arm that takes it as it is.
USING = {"plain": MAIN_ARM.name, "guided": "guided-25", "variants": "variants-25"}


@dataclass(frozen=True)
class Insights:
    """Rows as the functions below return them; `pools` are the points behind `correlations`."""

    worth: list[dict[str, Any]]
    leak: list[dict[str, Any]]
    pools: list[tuple[str, dict[str, float], float]]
    correlations: list[dict[str, Any]]

    @classmethod
    def of(cls, results: Sequence[RegimeResult]) -> "Insights":
        pools = pools_and_gains(results)
        return cls(real_images_worth(results), leak(results), pools, correlations(pools))


def real_images_worth(results: Sequence[RegimeResult]) -> list[dict[str, Any]]:
    """How many real images reach without generated ones what a regime's reach with them, on the learning curve of `classical`.

    The curve rises (isotonic regression over the regimes' means) and is straight in the logarithm of the count between them. The
    interval is from a bootstrap over draws, the same ones in all regimes, and over test sets: curve and gain both vary in it.

    Returns:
        for each regime `n_real`, `worth` and `interval`; 0 and infinity stand for less and more than the curve knows.
    """
    whole = sorted((result for result in results if result.regime.rare_share == 1), key=lambda result: result.n_real)
    pairs = [[_pair(result, seed) for seed in _shared_seeds(whole)] for result in whole]  # regime × draw
    if len(whole) < 2 or len(pairs[0]) < 2:
        return []
    values = np.array([[pair[0] for pair in of_regime] for of_regime in pairs])  # regime × draw × (classical, main)
    again = np.array([[pair[1] for pair in of_regime] for of_regime in pairs])  # … × test set
    counts = np.array([result.n_real for result in whole])
    worth, (low, high) = worth_in_real_images(counts, values.mean(1)), worth_interval(counts, values, again)
    return [
        {"regime": result.regime.name, "n_real": result.n_real, "worth": float(at), "interval": [float(a), float(b)]}
        for result, at, a, b in zip(whole, worth, low, high, strict=True)
    ]


def _shared_seeds(results: Sequence[RegimeResult]) -> list[int]:
    seeds = [set(result.auc.values.get(arm, {})) for result in results for arm in (CLASSICAL.name, MAIN_ARM.name)]
    return sorted(set.intersection(*seeds)) if seeds else []


def _pair(result: RegimeResult, seed: int) -> tuple[list[float], np.ndarray]:
    arms = (CLASSICAL.name, MAIN_ARM.name)
    return [result.auc.values[arm][seed] for arm in arms], np.array([result.auc.resampled[arm][seed] for arm in arms])


def leak(results: Sequence[RegimeResult]) -> list[dict[str, Any]]:
    """Of every regime that can leak: the honest gain, the leaky one, the difference, the verdict that the leak would have had."""
    found = []
    for result in results:
        if LEAKY.name not in result.arms or result.regime == Regime(1.0):
            continue
        effects = {
            "honest": effect(result.auc, MAIN_ARM.name, CLASSICAL.name),
            "leaky": effect(result.auc, LEAKY.name, CLASSICAL.name),
            "inflated_by": effect(result.auc, LEAKY.name, MAIN_ARM.name),
        }
        if all(effects.values()):
            would = judge(result.auc, {LEAKY.name: [CLASSICAL.name, OVERSAMPLED.name]}, LEAKY.name)
            found.append({"regime": result.regime.name, "verdict_of_the_leak": would.verdict, **effects})
    return found


def pools_and_gains(results: Sequence[RegimeResult]) -> list[tuple[str, dict[str, float], float]]:
    """Of every pool that an honest arm takes as it is: the regime, the pool's metrics, and the gain in AUC over the oversampled
    control, which fills the same places with real images: what is left is due to the new images."""
    found = []
    for result in results:
        for draw in result.draws:
            for pool, known in draw.pools.items():
                measured = {name: value for name, value in known.items() if name.split(",")[0] in METRICS}
                cell = draw.cell(USING.get(pool, ""))
                control = draw.cell(BY_NAME[cell.arm].twin or "") if cell else None
                if cell and control and measured:
                    found.append((result.regime.name, measured, cell.auc - control.auc))
    return found


def correlations(pools: Sequence[tuple[str, dict[str, float], float]]) -> list[dict[str, Any]]:
    """Of every metric its rank correlation (Spearman) with the gain over all pools, and within regimes (their mean, weighted by
    their pools); None where there are too few pools or nothing varies."""
    rows = []
    for name in sorted({name for _, measured, _ in pools for name in measured}):
        known = [(regime, of[name], gain) for regime, of, gain in pools if np.isfinite(of.get(name, np.nan))]
        regimes = {regime: [(value, gain) for each, value, gain in known if each == regime] for regime, _, _ in known}
        within = [(value, len(pairs)) for pairs in regimes.values() if (value := spearman(pairs)) is not None]
        weights = [count for _, count in within]
        mean = float(np.average([value for value, _ in within], weights=weights)) if within else None
        over_all = spearman([(value, gain) for _, value, gain in known])
        rows.append({"metric": name, "all": over_all, "within_regimes": mean, "pools": len(known)})
    return rows
