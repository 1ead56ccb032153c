"""What an arm's classifier is trained on, and chosen by: real images, and those beside them or in their place."""

from pathlib import Path

import numpy as np

from medmnist_diffusion.data import Split
from medmnist_diffusion.data.dataset import joined
from medmnist_diffusion.data.regimes import RegimeData, rarest_class
from medmnist_diffusion.metrics import selection
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.mixed_training import Fitted, ImageClassifier, Mixture, fit
from medmnist_diffusion.metrics.pseudo_labels import pseudo_labelled
from medmnist_diffusion.publish.markdown import escaped
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, ClassifierArm
from medmnist_diffusion.studies.augmentation.generators import Pool
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol

MOST_REPEATED = 20_000  # images, of pools that are made equally large
UNBALANCED = (
    "pseudo",
    "both",
)  # a pseudo-label that is given once is mostly wrong: it must not fill a class's part of each batch


def fit_arm(
    protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm, pool: Pool | None
) -> tuple[Mixture, Fitted]:
    """Train an arm's classifier: what it was trained on, and what came of it."""
    mixture = _mixture(protocol, data, arm, pool)
    if arm == CLASSICAL:
        return mixture, _fit_classical(protocol, data)
    return mixture, _fit(protocol, data, mixture, _val(data, arm, pool))


def pool_of(protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm) -> Pool:
    """The generated images of an arm."""
    if arm.pool == "both":
        return protocol.source.draw("plain", data)
    return protocol.source.draw(arm.pool, data, _pseudo_labelled(protocol, data) if arm.unlabelled else None)


def _mixture(protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm, pool: Pool | None) -> Mixture:
    """What the arm's classifier is trained on."""
    extra = _extra(protocol, data, arm, pool) if arm.share else None
    several = protocol.dataset.conditioning.multi_label
    chances = None
    if extra and arm.soft:
        logits = predicted_logits(_selector(protocol, data), extra)
        chances = logits.sigmoid() if several else logits.softmax(1)
    unlabeled = data.unlabelled if arm.consistent else None
    outside = data.dataset if arm.own_first else protocol.outside if arm.outside else None
    return Mixture(
        data.dataset.train, extra, arm.share, arm.pool not in UNBALANCED, arm.until, arm.classical, chances, arm.balance,
        unlabeled, outside,
    )  # fmt: skip


def _val(data: RegimeData, arm: ClassifierArm, pool: Pool | None) -> Split:
    """What chooses an arm's classifier: the regime's validation images. Where generated images stand in for real ones, generated
    ones that are not trained on."""
    val = data.dataset.splits["val"]
    if not arm.times or pool is None:
        return val
    trained_on = _spread(len(pool.split), round(arm.times * len(data.dataset.train)))
    left = np.setdiff1d(np.arange(len(pool.split)), trained_on)
    return pool.split.subset(left[_spread(len(left), len(val))])


def _extra(protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm, pool: Pool | None) -> Split:
    """The images that an arm has beside the real ones."""
    conditioning = protocol.dataset.conditioning
    if pool is not None and arm.pool == "both":
        generated = pool.split.subset(selection.unselected(conditioning.strata(pool.split.labels)))
        return _half_and_half(_pseudo_labelled(protocol, data), generated)
    extra = pool.split if pool else data.dataset.train if arm.pool == "real" else _pseudo_labelled(protocol, data)
    if arm.selection:
        return extra.subset(selection.SELECTIONS[arm.selection](extra, data.dataset, _selector(protocol, data)))
    if arm.times:
        return extra.subset(_spread(len(extra), round(arm.times * len(data.dataset.train))))
    if arm.pool == "plain":
        extra = extra.subset(selection.unselected(conditioning.strata(extra.labels)))
    if arm.rare:
        extra = extra.subset(np.flatnonzero(conditioning.shows(extra.labels, rarest_class(protocol.dataset))))
    return extra


def _spread(length: int, count: int) -> np.ndarray:
    """So many rows of a pool, evenly over it, so that its labels, which stand in order, keep their shares; all if it has fewer."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))


def _half_and_half(first: Split, second: Split) -> Split:
    """As many images of one split as of the other, the fewer ones again and again, at most MOST_REPEATED."""
    count = min(max(len(first), len(second)), MOST_REPEATED)
    return joined("both", [split.subset(np.resize(_spread(len(split), count), count)) for split in (first, second)])


def _pseudo_labelled(protocol: AugmentationProtocol, data: RegimeData) -> Split:
    """The training images that the regime leaves out, with the labels that the classical arm's classifier finds in them."""
    model, conditioning = _selector(protocol, data), protocol.dataset.conditioning
    return pseudo_labelled(model, data.unlabelled, data.dataset.train, conditioning)


def _fit(protocol: AugmentationProtocol, data: RegimeData, mixture: Mixture, val: Split) -> Fitted:
    balanced = protocol.situation.of_rarest
    return fit(protocol.recipe, mixture, val, protocol.dataset.conditioning, data.seed, balanced)


def _fit_classical(protocol: AugmentationProtocol, data: RegimeData) -> Fitted:
    """The classical arm's classifier; kept, as selections look through its eyes."""
    train, dataset = data.dataset.train, protocol.dataset
    fitted = _fit(protocol, data, Mixture(train), data.dataset.splits["val"])
    facts = (
        f"{protocol.recipe.network}, trained for {fitted.step} steps on {len(train)} real images of {dataset.name} "
        f"({data.regime.name}, draw {data.seed}), shifted, rotated and changed in brightness; classes: "
        f"{', '.join(dataset.id2label.values())}; licence of the data: {dataset.license}. The study's selections look at "
        "generated images through it."
    )
    fitted.model.save_pretrained(_selector_folder(protocol, data), model_card_kwargs={"facts": escaped(facts)})
    return fitted


def _selector(protocol: AugmentationProtocol, data: RegimeData) -> ImageClassifier:
    folder = _selector_folder(protocol, data)
    if not (folder / "model.safetensors").is_file():
        return _fit_classical(protocol, data).model
    return ImageClassifier.from_pretrained(folder).eval()


def _selector_folder(protocol: AugmentationProtocol, data: RegimeData) -> Path:
    return protocol.folder / "classifiers" / protocol.fingerprint(data.regime, data.seed)
