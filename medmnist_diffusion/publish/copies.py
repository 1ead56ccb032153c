"""Whether a model copies its training images, from what was measured: for cards, and for what may be published."""

from medmnist_diffusion.artifacts import MetricRecord, Metrics
from medmnist_diffusion.metrics.intervals import holm

COPYING = 0.01  # p-value below which the card says that the model copies


def copy_tests(metrics: Metrics) -> tuple[list[MetricRecord], list[MetricRecord]]:
    """The shares of copies that were measured, and those of them that are more than chance, after Holm's correction."""
    shares = [record for record in metrics.metrics if record.name == "memorized_share"]
    corrected = holm([1.0 if record.p_value is None else record.p_value for record in shares])
    return shares, [record for record, p_value in zip(shares, corrected, strict=True) if p_value < COPYING]


def copying_sentences(metrics: Metrics) -> str:
    """The shares of copies, and whether any of them, overall or of a class, is more than chance: after Holm's correction."""
    shares, flagged = copy_tests(metrics)
    if not shares:
        return "**Not checked**: " + ("; ".join(metrics.refused) or "it was not measured") + "."
    sentences = [
        f"{record.value:.2%} of the generated images lie nearer to a training image ({record.extractor}) than "
        f"{1 - record.floor:.1%} of fresh real images do (p = {record.p_value:.2g})."
        for record in shares
        if record.class_ is None
    ]
    if flagged:
        names = metrics.dataset["id2label"]
        where = ", ".join(
            f"{record.extractor}, {'all classes' if record.class_ is None else names[str(record.class_)]}"
            for record in flagged
        )
        sentences.append(
            f"**That is more than chance ({where}): this model reproduces training images.** Do not publish its images."
        )
    else:
        sentences.append(
            f"No sign of copying by these measures ({len(shares)} tests over spaces and classes, corrected after Holm); the pixel "
            "one counts mirrored and slightly shifted copies."
        )
    return " ".join(sentences)
