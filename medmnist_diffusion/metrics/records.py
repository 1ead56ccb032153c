"""Records of figures: one function measures a metric with its floor, one makes the mean of several draws."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.metrics.evidence import Evidence
from medmnist_diffusion.metrics.intervals import Estimate, Z, difference_interval, ratio_interval, standard_error
from medmnist_diffusion.metrics.table import METRICS, Metric

NO_BOUNDS = (-np.inf, np.inf)


def measure(metric: Metric, evidence: Evidence, floors: dict[Hashable, Estimate] | None = None) -> MetricRecord:
    """A metric's record: its figure of the generated images, and of fresh real ones in their place, the floor.

    Args:
        evidence: of the kind that the metric needs, and enough of it (`Metric.unmet`).
        floors: those that are known, by the real images behind them; what is computed here is added.
    """
    evidence = evidence.at_most(metric.max_images)
    value = metric.compute(evidence.candidate)
    floor = _floor(metric, evidence, {} if floors is None else floors)
    source = evidence.fresh_source
    if metric.chance and floor.note:
        source = f"{source}, {floor.note}"
    n_real = evidence.n_real
    if n_real is None:
        n_real = len(evidence.fresh if evidence.reference is None or not metric.uses_reference else evidence.reference)
    return MetricRecord(
        name=metric.name,
        extractor=evidence.space.extractor,
        dimension=evidence.space.dimension,
        class_=evidence.class_,
        value=value.value,
        error=value.error,
        interval=value.interval_within(*metric.bounds),
        floor=floor.value,
        floor_error=floor.error,
        floor_interval=floor.interval_within(*metric.bounds),
        floor_source=source,
        p_value=value.p_value,
        detectable=value.detectable,
        near_fresh=value.near_fresh,
        seen_copies=value.seen_copies,
        n_real=n_real,
        n_generated=len(evidence.generated) if evidence.n_generated is None else evidence.n_generated,
        reference_split=evidence.reference_split,
        seed=evidence.seed,
        note=value.note or evidence.note,
        **_against_floor(metric.compared_by, value, floor),
    )


def _floor(metric: Metric, evidence: Evidence, floors: dict[Hashable, Estimate]) -> Estimate:
    if metric.chance:
        return metric.chance(evidence.candidate)
    key = (metric.name, evidence.kind, evidence.space, evidence.class_, evidence.fresh_key)
    if evidence.fresh_key is None or key not in floors:
        floors[key] = metric.compute(evidence.fresh_candidate)
    return floors[key]


def _against_floor(compared_by: str | None, value: Estimate, floor: Estimate) -> dict[str, Any]:
    """The fields of a record that hold value ÷ floor, or value − floor."""
    if compared_by == "difference":
        return {
            "difference": value.value - floor.value,
            "difference_interval": difference_interval(value, floor),
        }
    if compared_by == "ratio" and floor.value > 0:
        return {"ratio": value.value / floor.value, "ratio_interval": ratio_interval(value, floor)}
    return {}


def in_order(records: Sequence[MetricRecord]) -> list[MetricRecord]:
    """As the table has them, overall before the classes."""
    order = list(METRICS)
    return sorted(records, key=lambda r: (order.index(r.name), -1 if r.class_ is None else r.class_))


def over_seeds(draws: Sequence[Sequence[MetricRecord]]) -> list[MetricRecord]:
    """One record for each figure that every draw of the generated images has: the mean, with Student's interval of the mean.

    The interval holds the draw of the generated images and no assumption about how a figure varies; that of the ratio and of the
    difference holds the floor's error too. An interval is never narrower than one draw's ÷ √draws, as it would be where all agree
    by chance. Of several p-values, twice the median is one again (Rüger 1978).
    """
    if len(draws) == 1:
        return list(draws[0])
    by_figure = [{(r.name, r.extractor, r.dimension, r.class_, r.reference_split): r for r in draw} for draw in draws]
    return [
        _mean_record([draw[figure] for draw in by_figure])
        for figure in by_figure[0]
        if all(figure in draw for draw in by_figure)
    ]


def _mean_record(records: list[MetricRecord]) -> MetricRecord:
    first, count = records[0], len(records)
    values = np.array([record.value for record in records])
    error = float(student_t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)) / Z
    of_one = [standard_error(record.value, record.error, record.interval) or 0.0 for record in records]
    mean = Estimate(float(values.mean()), max(error, float(np.mean(of_one) / np.sqrt(count))))
    floor = Estimate(first.floor, standard_error(first.floor, first.floor_error, first.floor_interval))
    bounds = METRICS[first.name].bounds if first.name in METRICS else NO_BOUNDS
    changes: dict[str, Any] = {
        "value": mean.value,
        "error": mean.error,
        "interval": mean.interval_within(*bounds),
        "sampling_seeds": count,
        "note": f"{first.note}; note of the first of {count} draws" if first.note else "",
    }
    if first.ratio is not None:
        changes |= _against_floor("ratio", mean, floor)
    if first.difference is not None:
        changes |= _against_floor("difference", mean, floor)
    p_values = [record.p_value for record in records if record.p_value is not None]
    if p_values:
        changes["p_value"] = min(1.0, 2 * float(np.median(p_values)))
    return first.model_copy(update=changes)
