"""Classifiers of mixed images, and selections of generated ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.mixed_training import (
    ImageClassifier,
    MixedBatches,
    Mixture,
    Recipe,
    classical_augmentation,
    consistency_loss,
    fit,
)
from medmnist_diffusion.metrics.selection import SELECTIONS

QUICK = Recipe(steps=60, batch_size=64, learning_rates=(3e-3,))


def test_real_images_of_a_batch_do_not_depend_on_the_extra_ones(small: ImageDataset) -> None:
    extra = Split("extra", np.zeros((40, 28, 28, 1), np.uint8), np.arange(40) % 4)
    alone = MixedBatches(Mixture(small.train), 32, small.conditioning, 5)
    mixed = MixedBatches(Mixture(small.train, extra, 0.25), 32, small.conditioning, 5)
    for _ in range(3):
        (images, labels), (with_extra, their_labels) = alone.draw(), mixed.draw()
        assert torch.equal(images[:24], with_extra[:24])
        assert torch.equal(labels[:24], their_labels[:24])
        assert (with_extra[24:] == 0).all()
    assert (mixed.draw(extra=False)[0] != 0).flatten(1).any(1).all()


def test_a_label_that_is_given_once_fills_no_class_of_each_batch_unless_asked(small: ImageDataset) -> None:
    """As pseudo-labels are: 39 images of a class, and one of another that is perhaps wrong."""
    labels = np.r_[np.zeros(39, np.int64), 1]
    extra = Split("extra", np.repeat(labels[:, None, None, None] == 1, 28, 1).repeat(28, 2) * np.uint8(255), labels)
    shares = []
    for balanced in (True, False):
        batches = MixedBatches(Mixture(small.train, extra, 0.5, balanced), 64, small.conditioning, 0)
        drawn = torch.cat([batches.draw()[0][32:] for _ in range(20)])
        shares.append(float((drawn == 255).flatten(1).all(1).float().mean()))
    assert shares == [pytest.approx(0.5, abs=0.06), pytest.approx(1 / 40, abs=0.02)]


def test_consistency_is_asked_of_classes_that_a_classifier_is_sure_of() -> None:
    weak, strong = torch.tensor([[9.0, 0, 0], [1.0, 0, 0]]), torch.tensor([[0.0, 2, 0], [0.0, 2, 0]])
    wanted = -torch.log_softmax(strong[0], 0)[0] / 2  # the first image alone, over both
    assert consistency_loss(weak, strong) == pytest.approx(float(wanted))


def test_consistency_of_several_labels_is_by_rank_where_no_chance_is_high() -> None:
    """Of ten images, one in five of which has the label: the surest one has it, the four that are least like it do not."""
    weak = torch.linspace(-3, -9, 10)[:, None]  # a threshold would find nothing but absent labels
    strong = torch.zeros(10, 1, requires_grad=True)
    consistency_loss(weak, strong, torch.tensor([0.2])).backward()
    assert strong.grad is not None
    assert torch.sign(strong.grad[:, 0]).tolist() == [-1, 0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(28, 28), (40, 24), (24, 40)])
def test_classical_augmentation_moves_little_and_never_mirrors(shape: tuple[int, int]) -> None:
    height, width = shape
    image = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    image[..., height // 2 - 4 : height // 2 + 4, 4:10] = 200  # on the left
    augment = classical_augmentation(height, width)
    torch.manual_seed(0)
    for _ in range(50):
        moved = augment(image)
        assert moved.shape == image.shape
        columns = moved.float().sum((0, 1, 2))
        assert abs(float((columns * torch.arange(width)).sum() / columns.sum()) - 6.5) < 0.16 * width


def test_the_same_seed_gives_the_same_classifier(small: ImageDataset) -> None:
    mixture = Mixture(small.train, small.splits["val"], 0.25)
    first, second = (
        fit(replace(QUICK, steps=6), mixture, small.splits["val"], small.conditioning, 1) for _ in range(2)
    )
    test = small.splits["test"]
    assert torch.equal(predicted_logits(first.model, test), predicted_logits(second.model, test))


def test_classifiers_are_saved_and_loaded(small: ImageDataset, tmp_path: Path) -> None:
    for network in ("small-cnn", "resnet18"):
        model = ImageClassifier(network, 1, 4).eval()
        model.save_pretrained(tmp_path / network, model_card_kwargs={"facts": "Trained on phantoms."})
        again = ImageClassifier.from_pretrained(tmp_path / network).eval()
        few = small.train.subset(np.arange(3))
        assert torch.equal(predicted_logits(model, few), predicted_logits(again, few))
        card = (tmp_path / network / "README.md").read_text(encoding="utf-8")
        assert "Research only, not for diagnosis. Trained on phantoms." in card
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "medmnist-diffusion"
        assert model.features(torch.zeros(2, 1, 28, 28)).shape == (2, 64 if network == "small-cnn" else 512)


# Selection


def test_selections_find_what_was_planted(small: ImageDataset) -> None:
    model = fit(QUICK, Mixture(small.train), small.splits["val"], small.conditioning, 0).model
    real, rng = small.splits["test"], np.random.default_rng(0)
    noise = Split("noise", rng.integers(0, 256, (20, 28, 28, 1), np.uint8), np.arange(20) % 4)
    copies = small.train.subset(np.concatenate([np.flatnonzero(small.train.labels == k)[:5] for k in range(4)]))
    wrong = Split("wrong", real.images[:20], (real.labels[:20] + 1) % 4)
    parts = [real, noise, copies, wrong]
    pool = Split("pool", np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    starts = np.cumsum([0, *map(len, parts)])
    of = {name: np.arange(*starts[i : i + 2]) for i, name in enumerate(("real", "noise", "copies", "wrong"))}
    kept = {name: set(choose(pool, small, model)) for name, choose in SELECTIONS.items()}

    def share(name: str, what: str) -> float:
        return len(kept[name] & set(of[what])) / len(of[what])

    assert share("confident", "wrong") < 0.2 < share("confident", "real")
    assert share("in-distribution", "noise") < 0.2 < share("in-distribution", "real")
    assert share("not-memorized", "copies") < 0.2 < share("not-memorized", "real")
    assert share("diverse", "copies") < share("diverse", "real")
    for rows in kept.values():
        assert set(pool.labels[sorted(rows)]) == {0, 1, 2, 3}
