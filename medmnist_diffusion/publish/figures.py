"""Measured figures as rows of a table, for cards and for the terminal."""

import io
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from medmnist_diffusion.artifacts import MetricRecord, Metrics
from medmnist_diffusion.metrics.table import record_label


def overall_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The figures of all classes together, as a card shows them."""
    return [_row(record, metrics) for record in metrics.metrics if record.class_ is None]


def class_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The figures of each class by itself."""
    return [_row(record, metrics) for record in metrics.metrics if record.class_ is not None]


def _row(record: MetricRecord, metrics: Metrics) -> dict[str, Any]:
    interval = "–" if record.interval is None else f"{record.interval[0]:.3g} … {record.interval[1]:.3g}"
    return {
        "label": record_label(record),
        "class_name": "" if record.class_ is None else metrics.dataset["id2label"][str(record.class_)],
        "value": f"{record.value:.3g}",
        "interval": interval,
        "floor": f"{record.floor:.3g}",
        "against_floor": _against_floor(record),
        "n_real": record.n_real,
        "n_generated": record.n_generated,
    }


def _against_floor(record: MetricRecord) -> str:
    """`÷: 2.1 (1.3 … 3.4)`, or for unbiased figures `−: 0.1 (-0.1 … 0.3)`, with the 95 % interval."""
    sign, value, interval = ("÷", record.ratio, record.ratio_interval)
    if record.difference is not None:
        sign, value, interval = ("−", record.difference, record.difference_interval)
    if value is None:
        return ""
    return f"{sign}: {value:.2g}" + ("" if interval is None else f" ({interval[0]:.2g} … {interval[1]:.2g})")


def metrics_table(metrics: Metrics) -> str:
    """All overall figures beside their floors, and what is to be known to read them, as text for a terminal."""
    name = f"{metrics.dataset['name']}{' (synthetic)' if metrics.dataset.get('synthetic') else ''}"
    table = Table(title=f"{name}: generated against train", box=box.SIMPLE_HEAD)
    for heading in ("figure", "value", "95 % interval", "floor", "to floor"):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=heading != "figure")
    for row in overall_rows(metrics):
        against = row["against_floor"].partition(" (")[0]  # its interval, which the card shows, does not fit
        table.add_row(row["label"], row["value"], row["interval"], row["floor"], against)
    return "\n".join([table_text(table), *_reading(metrics)])


def table_text(table: Table) -> str:
    """A table as it fits the terminal."""
    drawn = io.StringIO()
    Console(file=drawn, highlight=False, markup=False, width=Console().width).print(table)
    return drawn.getvalue().rstrip()


def _reading(metrics: Metrics) -> list[str]:
    """What the table's figures are of."""
    sizes = dict.fromkeys(
        f"- {record.n_generated} generated and {record.n_real} {record.reference_split} images; floor: "
        f"{record.floor_source}."
        for record in metrics.metrics
        if record.class_ is None
    )
    lines = [*sizes, *(f"- not measured: {line}." for line in metrics.refused)]
    if how := metrics.sampling:
        count = how.get("sampling_seeds", 1)
        more = f" and {count - 1} more; figures are their means" if count > 1 else ""
        lines.append(
            f"Sampled with {how['sampler']}, {how['num_inference_steps']} steps, guidance {how['guidance_scale']:g}, seed "
            f"{how['seed']}{more}."
        )
    return [*lines, "Distances of different features or dimensions do not compare; compare each with its own floor."]
