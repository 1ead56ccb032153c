"""A student: it makes its teacher's images in fewer steps, the same whoever runs it, and refuses what it was not taught."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.diffusion.sampling import conditioning_of, generate_images, load_pipeline
from medmnist_diffusion.errors import TrainingDivergedError, UserError
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.publish.onnx_export import how_to_sample
from medmnist_diffusion.training.distill import differences, distill, noise_of, student_of, teachers_pairs
from tests.conftest import CliError, small_training

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def teacher(trained_run: Path) -> Path:
    return trained_run / "pipeline"


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distill(teacher, tmp_path_factory.mktemp("students") / "two", max_train_steps=120, num_pairs=640)


def latents_of(pipe: Any, noise: torch.Tensor, labels: list[int], **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(labels, latents=noise, output_type="latent", **options).images)


def test_the_student_makes_its_teachers_images(teacher: Path, student: Path) -> None:
    """Asked by plain diffusers with its own file, for noise and classes that it has not learned from: it comes nearer to the
    teacher's ten steps than the teacher does in two."""
    pipe = load_pipeline(teacher)
    noise, labels = noise_of(99, 0, pipe.image_encoder.encoded_shape), [i % 2 for i in range(64)]
    wanted = latents_of(pipe, noise, labels, timesteps=pipe.fast_timesteps(10))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    in_two = latents_of(pipe, noise, labels, num_inference_steps=2)
    learned: Any = DiffusionPipeline.from_pretrained(student, trust_remote_code=True)
    assert type(learned.scheduler) is DDIMScheduler
    off = np.square(latents_of(learned, noise, labels) - wanted).mean()
    assert off < 0.7 * np.square(in_two - wanted).mean()
    others = [1 - label for label in labels]
    assert off < np.square(latents_of(learned, noise, others) - wanted).mean()  # it hears the label


def test_what_is_trained_is_what_the_pipeline_does(teacher: Path, student: Path) -> None:
    pipe, pairs = load_pipeline(student), teachers_pairs(load_pipeline(teacher), teacher, 1, seed=5)
    off, apart = differences(pipe, pairs)
    noise, labels, images = pairs[0]
    made = torch.from_numpy(latents_of(pipe, noise, labels.tolist()))
    grey = [pipe.image_encoder.decode(one).clamp(-1, 1) * 127.5 for one in (made, images)]
    assert off == pytest.approx(float((grey[0] - grey[1]).square().mean().sqrt()), abs=0.02)
    assert 0 < off < apart


def test_the_same_seed_gives_the_same_student(teacher: Path, tmp_path: Path) -> None:
    hashes = [
        file_hash(distill(teacher, tmp_path / name, max_train_steps=3, num_pairs=64, seed=seed) / WEIGHTS)
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_teachers_images_have_its_guidance_and_all_its_classes(teacher: Path) -> None:
    pipe = load_pipeline(teacher)
    plain = teachers_pairs(pipe, teacher, 2, seed=0)
    assert set(plain.labels.tolist()) == set(conditioning_of(pipe).ids)
    pipe.register_to_config(default_guidance_scale=2.0)
    guided = teachers_pairs(pipe, teacher, 2, seed=0)
    assert torch.equal(plain.labels, guided.labels)
    assert not torch.equal(plain.images, guided.images)


def test_every_command_takes_a_student_in_its_own_steps(
    student: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    assert cli.main(["sample", str(student), "--num_per_class", "2", "--output", str(tmp_path / "s.npz")]) == 0
    record = json.loads((tmp_path / "s.json").read_text())
    assert (record["sampler"], record["num_inference_steps"], record["guidance_scale"]) == ("ddim", 2, 1.0)
    evaluated = ["evaluate", str(student), "--dataset", str(small_npz), "--num_images", "100"]
    assert cli.main(evaluated) == 0
    card = (student / "README.md").read_text()
    assert "The network is a student" in card
    assert "Sampled with ddim, 2 steps" in card
    assert "DPMSolver" not in card
    assert "fast_timesteps" not in card
    text = "".join(path.read_text() for path in student.rglob("*.json"))
    assert "_name_or_path" not in text
    assert str(student.parent) not in text
    steps = "leave the sampler, its steps and the guidance out"
    for option in (["--num_inference_steps", "10"], ["--sampler", "dpmsolver++"], ["--guidance_scale", "1.5"]):
        asked = ["sample", str(student), "--num_per_class", "1", "--output", str(tmp_path / "no.npz"), *option]
        assert steps in cli_error(*asked)
    assert "with its teacher's guidance" in cli_error(*evaluated, "--tune_guidance")
    more = ["augment", str(student), "--dataset", str(small_npz), "--output", str(tmp_path / "more.npz")]
    assert "takes no others, no guidance and no images" in cli_error(*more, "--strength", "0.5")
    start = [*small_training(small_npz, tmp_path / "run"), "--pretrained_model_name_or_path", str(student)]
    assert "Start from what it was made of" in cli_error("train", *start)
    assert "distilled itself" in cli_error("distill", str(student), "--output", str(tmp_path / "no"))
    assert "exists" in cli_error("distill", str(student), "--output", str(student))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_inference_steps": 4}, "leave num_inference_steps and timesteps out"),
        ({"timesteps": [999, 499]}, "leave num_inference_steps and timesteps out"),
        ({"guidance_scale": 2.0}, "takes no guidance_scale, eta or image"),
        ({"eta": 1.0}, "takes no guidance_scale, eta or image"),
        ({"image": np.zeros((1, 28, 28, 1), np.float32)}, "takes no guidance_scale, eta or image"),
    ],
)
def test_the_pipeline_refuses_what_it_was_not_taught(student: Path, options: dict[str, Any], words: str) -> None:
    pipe = load_pipeline(student)
    with pytest.raises(ValueError, match=words):
        pipe(class_labels=[0], **options)


def test_another_scheduler_is_refused(student: Path) -> None:
    pipe = load_pipeline(student)
    with pytest.raises(UserError, match="has no ddpm"):
        load_pipeline(student, "ddpm")
    with pytest.raises(UserError, match="takes no others"):
        generate_images(pipe, [0], num_inference_steps=5)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="use its own scheduler"):
        pipe(class_labels=[0])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    with pytest.raises(ValueError, match="use its own scheduler"):
        pipe(class_labels=[0])


def test_its_summary_names_its_teacher(teacher: Path, student: Path) -> None:
    summary, of_teacher = TrainingSummary.of(student), TrainingSummary.of(teacher)
    assert summary.distilled is not None
    assert summary.distilled.teacher_weights_sha256 == file_hash(teacher / WEIGHTS)
    assert (summary.distilled.pairs, summary.distilled.steps, summary.distilled.teacher_steps) == (640, 120, 10)
    assert summary.model_copy(update={"distilled": None}) == of_teacher
    known = how_to_sample(load_pipeline(student))  # of the page without a server, and of ONNX
    assert known["timesteps"] == [999, 499]
    assert known["null_label"] is None
    assert known["distilled"]


@pytest.mark.parametrize("steps", [1, 4])
def test_other_numbers_of_steps(teacher: Path, tmp_path: Path, steps: int) -> None:
    folder = distill(teacher, tmp_path / "student", num_inference_steps=steps, max_train_steps=2, num_pairs=64)
    assert generate_images(load_pipeline(folder), [0, 1]).shape == (2, 28, 28, 1)
    assert len(how_to_sample(load_pipeline(folder))["timesteps"]) == steps


def test_a_budget_in_minutes_ends(teacher: Path, tmp_path: Path) -> None:
    assert cli.main(["distill", str(teacher), "--output", str(tmp_path / "s"), "--max_train_minutes", "0.02",
                     "--num_pairs", "64"]) == 0  # fmt: skip
    distilled = TrainingSummary.of(tmp_path / "s").distilled
    assert distilled is not None
    assert 1 <= distilled.seconds < 30


def test_a_diverging_student_leaves_nothing(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medmnist_diffusion.training.distill.LEARNING_RATE", 1e30)
    with pytest.raises(TrainingDivergedError, match="Nothing was written"):
        distill(teacher, tmp_path / "s", max_train_steps=20, num_pairs=64)
    assert not list(tmp_path.iterdir())


def test_the_sums_of_the_table_are_ddims(student: Path) -> None:
    """What a browser computes: weighted sums of the noise and the predictions, the same images."""
    pipe: Any = load_pipeline(student)
    table, labels = how_to_sample(pipe), torch.tensor([0, 1, 1])
    noise = noise_of(3, 0, pipe.image_encoder.encoded_shape)[:3]
    parts, latents = [noise], noise
    for timestep, weights in zip(table["timesteps"], table["weights"], strict=True):
        with torch.no_grad():
            parts.append(pipe.unet(latents, timestep, class_labels=labels).sample)
        latents = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
    np.testing.assert_allclose(latents, latents_of(pipe, noise, labels.tolist()), atol=2e-3)


def test_without_a_teacher(cli_error: Callable[..., str], tmp_path: Path) -> None:
    assert "no pipeline folder" in cli_error("distill", str(tmp_path / "none"), "--output", str(tmp_path / "s"))


def test_student_of_keeps_the_teacher_as_it_is(teacher: Path) -> None:
    pipe = load_pipeline(teacher)
    copy = student_of(pipe, teacher, 2)
    with torch.no_grad():
        for parameter in copy.unet.parameters():
            parameter.zero_()
    assert any(bool(parameter.any()) for parameter in pipe.unet.parameters())
    assert pipe.distilled_steps is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_inference_steps": 3}, "1, 2 or 4 is possible"),
        ({"max_train_minutes": float("nan")}, "a number above 0 is needed"),
        ({"max_train_minutes": -1.0}, "a number above 0 is needed"),
        ({"max_train_steps": 0}, "at least 1 is needed"),
        ({"num_pairs": -5}, "at least 1 is needed"),
    ],
)
def test_numbers_out_of_range(teacher: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        distill(teacher, tmp_path / "s", **options)


def test_what_cannot_be_written_is_known_before_the_work(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medmnist_diffusion.training.distill.load_pipeline", lambda folder: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        distill(teacher, tmp_path / "file" / "student")
    with pytest.raises(UserError, match="within the teacher's folder"):
        distill(teacher, teacher / "unet" / "student")
    copy = shutil.copytree(teacher, tmp_path / "teacher")
    for name in ("training_config.yaml", "manifest.json"):
        (copy / name).unlink()
    with pytest.raises(UserError, match=r"training_config\.yaml is missing"):
        distill(copy, tmp_path / "student")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "teacher"]


def test_a_callback_cannot_guide_a_student(student: Path) -> None:
    pipe: Any = load_pipeline(student)

    def guided(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 5.0
        return {}

    made = [
        pipe(
            [0, 1], generator=torch.Generator().manual_seed(0), output_type="np", callback_on_step_end=callback
        ).images
        for callback in (None, guided)
    ]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("changed", [{"clip_sample": True}, {"trained_betas": [0.02] * 1000}])
def test_a_scheduler_that_is_not_as_it_was_taught(student: Path, changed: dict[str, Any]) -> None:
    pipe: Any = load_pipeline(student)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changed)
    with pytest.raises(ValueError, match="use its own scheduler"):
        pipe(class_labels=[0])


def test_an_ordinary_folder_names_no_distillation(teacher: Path) -> None:
    """So that an older version reads it."""
    assert "distilled_steps" not in (teacher / "model_index.json").read_text()
