"""`augment`: real and generated training images in one set, marked, and never from the generator of another set."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medmnist_diffusion import augmentation, cli
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.metrics.mixed_training import Recipe
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, OTHER_ARMS
from medmnist_diffusion.studies.augmentation.verdicts import ADVICE

STEPS = ["--num_inference_steps", "4"]


@pytest.fixture(scope="module")
def command(trained_run: Path, small_npz: Path) -> list[str]:
    return ["augment", str(trained_run / "pipeline"), "--dataset", str(small_npz), *STEPS]


def test_npz_holds_the_real_images_and_marks_the_others(command: list[str], small_npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "more.npz"
    assert cli.main([*command, "--output", str(out), "--share", "0.25"]) == 0
    real, again = load_dataset(str(small_npz)), load_dataset(str(out))
    with np.load(out, allow_pickle=False) as arrays:
        marked = arrays["train_synthetic"][:, 0].astype(bool)
    assert marked.mean() == pytest.approx(0.25, abs=0.01)
    assert (again.train.images[:][~marked] == real.train.images[:]).all()
    assert len(set(np.bincount(again.train.labels[marked]))) == 1  # each class equally often
    assert again.splits["test"].content_hash == real.splits["test"].content_hash
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["generated_images"] == marked.sum()
    assert record["trained_on"] == "small"


def test_the_rarest_class_alone(command: list[str], small_npz: Path, tmp_path: Path) -> None:
    out, real = tmp_path / "rare.npz", load_dataset(str(small_npz))
    assert cli.main([*command, "--output", str(out), "--share", "0.1", "--rare"]) == 0
    again = load_dataset(str(out))
    more = np.bincount(again.train.labels) - np.bincount(real.train.labels)
    rarest = int(np.argmin(np.bincount(real.train.labels)))
    assert more[rarest] == len(again.train) - len(real.train) > 0


def test_folder_is_read_by_datasets_with_its_column(command: list[str], small_npz: Path, tmp_path: Path) -> None:
    import datasets

    out = tmp_path / "more"
    assert cli.main([*command, "--output", str(out), "--share", "0.1", "--strength", "0.5"]) == 0
    table = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert sum(table["train"]["synthetic"]) == len(table["train"]) - 240
    assert not any(table["test"]["synthetic"])
    assert load_dataset(str(out)).num_classes == 4


def test_another_sets_generator_is_refused(command: list[str], tmp_path: Path, cli_error: Callable[..., str]) -> None:
    other = [*command[:2], "--dataset", "phantom", "--output", str(tmp_path / "x.npz"), *STEPS]
    assert "is a leak" in cli_error(*other)
    assert "--share is 1" in cli_error(*command, "--output", str(tmp_path / "x.npz"), "--share", "1")
    assert "--strength is 0.1" in cli_error(*command, "--output", str(tmp_path / "x.npz"), "--strength", "0.1")
    assert not (tmp_path / "x.npz").exists()


def test_variants_keep_what_little_noise_leaves(trained_run: Path, small_npz: Path) -> None:
    dataset, pipe = load_dataset(str(small_npz)), load_pipeline(trained_run / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    images, labels = dataset.train.images[:16], dataset.train.labels[:16]

    def distance(strength: float) -> float:
        made = generate_images(pipe, labels, 10, image=images, strength=strength)
        return float(np.abs(made.astype(float) - images).mean())

    near, middle, far = distance(0.1), distance(0.4), distance(1.0)
    assert near < middle < far
    assert near < 6
    again = generate_images(pipe, labels, 10, image=images, strength=0.4)
    assert (again == generate_images(pipe, labels, 10, image=images, strength=0.4, batch_size=5)).mean() > 0.95
    with pytest.raises(ValueError, match="strength"):
        generate_images(pipe, labels, 10, image=images, strength=0.01)
    with pytest.raises(ValueError, match="shape"):
        generate_images(pipe, labels, 10, image=images[:3], strength=0.5)


def test_a_selection_keeps_half_of_twice_as_many(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "Recipe", lambda: Recipe(steps=5, learning_rates=(1e-3,)))
    out, plain = tmp_path / "chosen.npz", tmp_path / "plain.npz"
    assert cli.main([*command, "--output", str(out), "--share", "0.25", "--selection", "diverse"]) == 0
    assert cli.main([*command, "--output", str(plain), "--share", "0.25"]) == 0
    chosen, others = load_dataset(str(out)).train, load_dataset(str(plain)).train
    assert (np.bincount(chosen.labels) == np.bincount(others.labels)).all()
    assert chosen.content_hash != others.content_hash
    assert json.loads(out.with_suffix(".json").read_text())["selection"] == "diverse"


def test_arms_without_generated_images_need_no_pipeline(small_npz: Path, tmp_path: Path) -> None:
    real, out = load_dataset(str(small_npz)), tmp_path / "again.npz"
    assert cli.main(["augment", "--dataset", str(small_npz), "--output", str(out), "--arm", "oversampled-25"]) == 0
    again = load_dataset(str(out))
    assert (again.train.images[: len(real.train)] == real.train.images[:]).all()
    more, labels = again.train.images[len(real.train) :], again.train.labels[len(real.train) :]
    assert len(more) / len(again.train) == pytest.approx(0.25, abs=0.01)
    assert len(set(np.bincount(labels))) == 1
    known = {image.tobytes(): label for image, label in zip(real.train.images[:], real.train.labels, strict=True)}
    assert [known[image.tobytes()] for image in more] == labels.tolist()
    record = json.loads(out.with_suffix(".json").read_text())
    assert (record["arm"], record["generated_images"], record["images_beside"]) == ("oversampled-25", 0, len(more))
    with np.load(out, allow_pickle=False) as arrays:
        assert "train_synthetic" not in arrays


def test_pseudo_labels_are_a_classifiers_and_fill_their_share(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fresh images of the same kind most are labelled as they are; labelled images are repeated until both are as many."""
    from medmnist_diffusion.data import phantom
    from medmnist_diffusion.data.npz import write_npz

    monkeypatch.setattr(augmentation, "Recipe", lambda: Recipe(steps=80, learning_rates=(3e-3,)))
    fresh, out = tmp_path / "fresh.npz", tmp_path / "labelled.npz"
    arrays = phantom.make_phantom(seed=77, counts={"train": 600, "val": 20, "test": 20})
    write_npz(fresh, arrays)
    asked = ["augment", "--dataset", str(small_npz), "--output", str(out), "--arm", "pseudo-labels"]
    assert cli.main([*asked, "--unlabeled", str(fresh)]) == 0
    train, real = load_dataset(str(out)).train, load_dataset(str(small_npz)).train
    truth = {
        image.tobytes(): label
        for image, label in zip(arrays["train_images"], arrays["train_labels"][:, 0], strict=True)
    }
    beside = [truth.get(image.tobytes()) for image in train.images[:]]
    labelled = np.array([one is not None for one in beside])
    assert labelled.mean() == pytest.approx(0.5, abs=0.01)
    right = [one == label for one, label in zip(beside, train.labels, strict=True) if one is not None]
    assert np.mean(right) > 0.7
    assert {image.tobytes() for image in real.images[:]} == {image.tobytes() for image in train.images[:][~labelled]}


def test_an_arm_says_what_is_made(command: list[str], small_npz: Path, tmp_path: Path) -> None:
    """`guided-25` by its name is what its options make."""
    named, spelt = tmp_path / "named.npz", tmp_path / "spelt.npz"
    assert cli.main([*command, "--output", str(named), "--arm", "guided-25"]) == 0
    assert cli.main([*command, "--output", str(spelt), "--share", "0.25", "--guidance_scale", "2"]) == 0
    assert load_dataset(str(named)).train.content_hash == load_dataset(str(spelt)).train.content_hash


def test_mistakes_with_arms_are_named(
    command: list[str], small_npz: Path, tmp_path: Path, cli_error: Callable[..., str]
) -> None:
    plain = ["augment", "--dataset", str(small_npz), "--output", str(tmp_path / "x.npz")]
    assert "give the PIPELINE" in cli_error(*plain)
    assert "leave the PIPELINE out" in cli_error(
        *command, "--output", str(tmp_path / "x.npz"), "--arm", "oversampled-25"
    )
    assert "a way to train: Let rare classes weigh more" in cli_error(*plain, "--arm", "weighted")
    assert "--unlabeled FOLDER" in cli_error(*plain, "--arm", "pseudo-labels")
    assert "leave it out" in cli_error(*plain, "--arm", "oversampled-25", "--unlabeled", str(small_npz))
    assert "leave --share" in cli_error(*plain, "--arm", "oversampled-25", "--share", "0.5")
    assert "Did you mean" in cli_error(*plain, "--arm", "oversample-25")
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("arm", [arm.name for arm in OTHER_ARMS])
def test_what_is_no_training_set_says_how_to_train(arm: str) -> None:
    """Whatever the report recommends has a command, or words that say what to do."""
    assert BY_NAME[arm].is_a_set or BY_NAME[arm].generated or arm in ADVICE
