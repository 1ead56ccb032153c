"""What a study says beyond its verdicts: how many real images the generated ones are worth, what a leak would have shown, and
which metric of the generated images goes with the gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.isotonic import isotonic_regression

from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, LEAKY, OVERSAMPLED, PRIMARY
from medmnist_diffusion.studies.augmentation.effects import effect, judge
from medmnist_diffusion.studies.augmentation.regimes import Regime
from medmnist_diffusion.studies.augmentation.verdicts import RegimeResult

BOOTSTRAPS = 1000
FEWEST = 4  # pools, for a correlation
USING = {
    "plain": PRIMARY.name,
    "guided": "guided-25",
    "variants": "variants-25",
}  # of each pool the arm that takes it as it is


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
    pairs = [
        [_pair(result, seed) for seed in _shared_seeds(whole)] for result in whole
    ]  # regime × draw → values, resampled
    if len(whole) < 2 or len(pairs[0]) < 2:
        return []
    values = np.array([[pair[0] for pair in of_regime] for of_regime in pairs])  # regime × draw × (classical, primary)
    again = np.array([[pair[1] for pair in of_regime] for of_regime in pairs])  # … × test set
    counts = np.array([result.n_real for result in whole])
    worth = _worth(counts, values.mean(1))
    rng, samples = np.random.default_rng(0), []
    for _ in range(BOOTSTRAPS):
        draws, test = rng.integers(values.shape[1], size=values.shape[1]), rng.integers(again.shape[3])
        shifted = values + again[..., test] - again.mean(3)
        samples.append(_worth(counts, shifted[:, draws].mean(1)))
    low, high = np.sort(np.array(samples), axis=0)[[round(0.025 * BOOTSTRAPS), round(0.975 * BOOTSTRAPS) - 1]]
    return [
        {"regime": result.regime.name, "n_real": result.n_real, "worth": float(at), "interval": [float(a), float(b)]}
        for result, at, a, b in zip(whole, worth, low, high, strict=True)
    ]


def _shared_seeds(results: Sequence[RegimeResult]) -> list[int]:
    seeds = [set(result.auc.values[arm]) for result in results for arm in (CLASSICAL.name, PRIMARY.name)]
    return sorted(set.intersection(*seeds)) if seeds else []


def _pair(result: RegimeResult, seed: int) -> tuple[list[float], np.ndarray]:
    arms = (CLASSICAL.name, PRIMARY.name)
    return [result.auc.values[arm][seed] for arm in arms], np.array([result.auc.resampled[arm][seed] for arm in arms])


def _worth(counts: np.ndarray, auc: np.ndarray) -> np.ndarray:
    """Of R regimes' counts and their AUC, R×2 without and with generated images. No gain is worth no images, also where the curve
    is level: the nearest count that reaches as much is taken."""
    curve, logs = isotonic_regression(auc[:, 0]), np.log(counts)
    found = []
    for at, gain in enumerate(auc[:, 1] - auc[:, 0]):
        reached = curve[at] + gain
        if gain >= 0:  # the least count from here on that reaches it
            beyond = [k for k in range(at, len(curve)) if curve[k] >= reached]
            if not beyond:
                found.append(np.inf)
                continue
            right, left = beyond[0], max(at, beyond[0] - 1)
        else:  # the largest count up to here that reaches no more
            below = [k for k in range(at + 1) if curve[k] <= reached]
            if not below:
                found.append(0.0)
                continue
            left, right = below[-1], min(at, below[-1] + 1)
        rise = curve[right] - curve[left]
        part = (reached - curve[left]) / rise if rise > 0 else float(gain >= 0)
        found.append(round(float(np.exp(logs[left] + part * (logs[right] - logs[left]))), 6))
    return np.array(found)


def leak(results: Sequence[RegimeResult]) -> list[dict[str, Any]]:
    """Of every regime that can leak: the honest gain, the leaky one, the difference, the verdict that the leak would have had."""
    found = []
    for result in results:
        if LEAKY.name not in result.arms or result.regime == Regime(1.0):
            continue
        effects = {
            "honest": effect(result.auc, PRIMARY.name, CLASSICAL.name),
            "leaky": effect(result.auc, LEAKY.name, CLASSICAL.name),
            "inflated_by": effect(result.auc, LEAKY.name, PRIMARY.name),
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
        for unit in result.units:
            for pool, measured in unit.pools.items():
                cell = unit.cell(USING.get(pool, ""))
                control = unit.cell(BY_NAME[cell.arm].twin or "") if cell else None
                if cell and control and measured:
                    found.append((result.regime.name, measured, cell.auc - control.auc))
    return found


def correlations(pools: Sequence[tuple[str, dict[str, float], float]]) -> list[dict[str, Any]]:
    """Of every metric its rank correlation (Spearman) with the gain over all pools, and within regimes (their mean, weighted by
    their pools); None where there are too few pools or nothing varies."""
    rows = []
    for name in sorted({name for _, measured, _ in pools for name in measured}):
        known = [
            (regime, measured[name], gain)
            for regime, measured, gain in pools
            if np.isfinite(measured.get(name, np.nan))
        ]
        regimes = {regime: [(value, gain) for each, value, gain in known if each == regime] for regime, _, _ in known}
        within = [(value, len(pairs)) for pairs in regimes.values() if (value := spearman(pairs)) is not None]
        weights = [count for _, count in within]
        rows.append(
            {
                "metric": name,
                "all": spearman([(value, gain) for _, value, gain in known]),
                "within_regimes": float(np.average([value for value, _ in within], weights=weights))
                if within
                else None,
                "pools": len(known),
            }
        )
    return rows


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(values) < FEWEST or not np.all(np.ptp(values, axis=0) > 0):
        return None
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)
