"""`medmnist-diffusion …`: one thin command a step. It reads the arguments and calls one function.

What a command needs is imported when it runs, so that `--help` and a mistake are answered at once.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from medmnist_diffusion import __version__, choices, options
from medmnist_diffusion.console import messages_shown
from medmnist_diffusion.diffusion.samplers import checked_sampling
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.options import FOLDER_OR_FILE, Command
from medmnist_diffusion.training.arguments import TrainCommand, config_from_options, training_options

AT_LEAST_1, AT_LEAST_2 = click.IntRange(min=1), click.IntRange(min=2)
ABOVE_0 = click.FloatRange(min=0, min_open=True)


class Group(click.Group):
    """Commands in the order of the work; a misspelt one gets the nearest."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=Group,
    invoke_without_command=True,
    help="Train, evaluate and publish class-conditional diffusion models of small labelled medical image sets. Research only, not "
    "for diagnosis.",
    epilog="medmnist-diffusion COMMAND --help lists a command's arguments. --debug shows the traceback of an error.",
)
@click.version_option(__version__, message="%(version)s")
@click.pass_context
def commands(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@commands.command()
@options.dataset_argument
@click.option(
    "--json", type=FOLDER_OR_FILE, help="Also write the audit to this file; - is stdout, and nothing else then."
)
@click.option(
    "--preview", type=FOLDER_OR_FILE, help="Also draw eight images a class, as they will be trained, as a PNG."
)
def audit(dataset: Any, json: Path | None, preview: Path | None) -> None:
    """What is in a data set, and what is wrong with it: counts, pixels, blank images, duplicates, leaks.

    DATASET is a MedMNIST flag, an npz, an image folder, a Hub id, or phantom.
    """
    from medmnist_diffusion.data.audit import audit, print_audit
    from medmnist_diffusion.files import STDOUT, write_json

    loaded = dataset.load()
    report = audit(loaded)
    if json:
        write_json(json, report.model_dump(mode="json"))
    if preview:
        from medmnist_diffusion.publish.plots import save_preview

        save_preview(loaded, preview)
    if str(json) != STDOUT:
        print_audit(report)


def _train(**given: Any) -> None:
    config = config_from_options(**given)  # before torch: a wrong value is answered at once
    from accelerate import PartialState

    if config.push_to_hub:
        from medmnist_diffusion.training.publish_trained import train_and_publish

        train_and_publish(config)
    else:
        from medmnist_diffusion.training.train import train

        train(config)
    PartialState().destroy_process_group()


commands.add_command(
    TrainCommand(
        "train",
        params=training_options(),
        callback=_train,
        help="Train a pipeline (the same as accelerate launch training/train.py).",
    )
)


@commands.command()
def models() -> None:
    """The pipelines that come with the package: their data, how good their images are, and their licence.

    Wherever a PIPELINE is asked for, a name of these will do.
    """
    from medmnist_diffusion.publish.models import models_table

    click.echo(models_table())


@commands.command()
@click.argument("pipeline", type=FOLDER_OR_FILE)
@click.option(
    "--num_per_class",
    type=AT_LEAST_1,
    help="Images of each class; of several labels an image, of each alone and of none.",
)
@click.option(
    "--num_images", type=AT_LEAST_1, help="Instead: images of all classes or combinations, as often as in train."
)
@click.option(
    "--labels",
    multiple=True,
    metavar="NAME ...",
    help="With --num_per_class, only these: names of classes, or combinations of labels such as effusion+mass.",
)
@click.option("--output", type=FOLDER_OR_FILE, required=True, help="A new folder, or a new .npz file.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["folder", "npz", "parquet"]),
    help="Default: npz for a .npz output, else folder (PNG files, of volumes NIfTI).",
)
@options.sampling_options
def sample(
    pipeline: Path,
    num_per_class: int | None,
    num_images: int | None,
    labels: tuple[str, ...],
    output: Path,
    output_format: choices.Format | None,
    **sampling: Any,
) -> None:
    """Generate labelled images: PNG folders, npz or parquet; volumes: NIfTI or npz.

    PIPELINE is a folder, or a name of `medmnist-diffusion models`.
    """
    how = checked_sampling(**sampling)
    from medmnist_diffusion.samples import sample

    chosen = ["" if name == options.NOTHING else name for name in labels]
    sample(pipeline, output, num_per_class, how, output_format, num_images=num_images, labels=chosen)


@commands.command()
@click.argument("pipeline", type=FOLDER_OR_FILE)
@click.option("--output", type=FOLDER_OR_FILE, required=True, help="A new folder.")
@click.option(
    "--num_inference_steps",
    type=click.Choice(["1", "2", "4"]),
    default="2",
    help="In how many steps the new one makes an image (default 2).",
)
@click.option("--max_train_minutes", type=ABOVE_0, default=10, help="Of the student's training (default 10).")
@click.option("--max_train_steps", type=AT_LEAST_1, help="So many steps instead.")
@click.option(
    "--num_pairs",
    type=AT_LEAST_1,
    default=20_000,
    help="Images of the teacher to learn from, in batches of 64 (default 20000).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0)
def distill(
    pipeline: Path,
    output: Path,
    num_inference_steps: str,
    max_train_minutes: float,
    max_train_steps: int | None,
    num_pairs: int,
    seed: int,
) -> None:
    """Teach a pipeline to make its images in two steps instead of ten: a student, as a new pipeline.

    PIPELINE, the teacher, is a folder or a name of `medmnist-diffusion models`. No data are needed.
    """
    from medmnist_diffusion.training.distill import distill

    distill(
        pipeline, output, num_inference_steps=int(num_inference_steps), max_train_minutes=max_train_minutes,
        max_train_steps=max_train_steps, num_pairs=num_pairs, seed=seed,
    )  # fmt: skip


@commands.command()
@click.argument("generated", type=FOLDER_OR_FILE)
@options.dataset_option
@click.option(
    "--features",
    multiple=True,
    help="Feature spaces: classifier, texture, pca, random, inception, or the Hub id or folder of a vision backbone (default "
    "classifier, texture, and inception where its official weights are at hand).",
)
@click.option(
    "--dimensions",
    multiple=True,
    type=click.Choice([str(n) for n in choices.INCEPTION_DIMENSIONS]),
    help="Inception's (default: all four).",
)
@click.option("--inception_weights", type=FOLDER_OR_FILE, help="The official weights file.")
@click.option("--num_images", type=AT_LEAST_2, default=1000, help="Images to sample from a pipeline (default 1000).")
@click.option(
    "--sampling_seeds",
    type=AT_LEAST_1,
    default=1,
    help="Draw a pipeline's images anew with so many seeds, --seed and those after it: figures are means (default 1).",
)
@click.option("--num_real", type=AT_LEAST_2, help="At most so many training images as reference (default: all).")
@click.option("--output", type=FOLDER_OR_FILE, help="Default: metrics.json in the pipeline folder, else here.")
@click.option(
    "--tune_guidance",
    is_flag=True,
    help="First give the pipeline the least guidance (1, 1.1 or 1.2) with which a classifier finds what was asked for as often as "
    "in held-out images.",
)
@click.option("--unlabeled", help="The images that the pipeline was trained on without labels: for copies of them.")
@options.sampling_options
def evaluate(
    generated: Path,
    dataset: Any,
    features: tuple[str, ...],
    dimensions: tuple[str, ...],
    inception_weights: Path | None,
    num_images: int,
    sampling_seeds: int,
    num_real: int | None,
    output: Path | None,
    unlabeled: str | None,
    tune_guidance: bool,
    **sampling: Any,
) -> None:
    """How good generated images are, and whether they are copies, beside real images.

    GENERATED is a pipeline folder or a name of `medmnist-diffusion models`, an image folder, or an npz (its train split).
    """
    how = checked_sampling(**sampling)
    from medmnist_diffusion.training.evaluate_fid import evaluate

    evaluate(
        generated, dataset, features=features or None,
        dimensions=[int(one) for one in dimensions] or None, inception_weights=inception_weights, num_images=num_images,
        num_real=num_real, sampling=how, sampling_seeds=sampling_seeds, output=output,
        unlabeled=unlabeled, tune_guidance=tune_guidance,
    )  # fmt: skip


@commands.command()
@click.argument("pipeline", type=FOLDER_OR_FILE, required=False)
@options.dataset_option
@click.option("--output", type=FOLDER_OR_FILE, required=True, help="A new .npz file, or a new folder for `datasets`.")
@click.option(
    "--arm",
    help="What the augmentation study calls it: oversampled-25, say, or pseudo-labels (docs/augmentation.md lists them).",
)
@click.option(
    "--share",
    type=float,
    help="Of the training images that is generated (default 0.25).",
)
@click.option(
    "--strength", type=float, help="Variants of real images instead, by so much of the noise, in 0 … 1 (0.6, say)."
)
@click.option(
    "--selection",
    type=click.Choice(choices.SELECTIONS),
    help="Generate twice as many and keep these, at most half of each class (see docs/augmentation.md).",
)
@click.option("--rare", is_flag=True, help="Generate images of the rarest class alone.")
@click.option("--unlabeled", help="Of --arm pseudo-labels: the images without labels, as `train` takes them.")
@options.sampling_options
def augment(
    pipeline: Path | None,
    dataset: Any,
    output: Path,
    arm: str | None,
    share: float | None,
    strength: float | None,
    selection: str | None,
    rare: bool,
    unlabeled: str | None,
    **sampling: Any,
) -> None:
    """A training set with generated images beside the real ones.

    PIPELINE is a folder or a name of `medmnist-diffusion models`, trained on this data set; it is left out for an --arm without
    generated images.
    """
    how = checked_sampling(**sampling)
    from medmnist_diffusion.augmentation import augment

    augment(
        pipeline,
        dataset,
        output,
        arm=arm,
        share=share,
        strength=strength,
        selection=selection,
        rare=rare,
        unlabeled=unlabeled,
        sampling=how,
    )


@commands.command()
@click.argument("pipeline", type=FOLDER_OR_FILE)
@click.option("--load_from", help="What the loading snippet names: a path or a Hub id.")
def card(pipeline: Path, load_from: str | None) -> None:
    """Write the model card into a pipeline folder that training wrote."""
    from medmnist_diffusion.diffusion.folder_check import check_folder
    from medmnist_diffusion.publish.card import write_card

    check_folder(pipeline)
    click.echo(f"Written to {write_card(pipeline, load_from)}")


@commands.group(cls=Group)
def export() -> None:
    """A pipeline for programs that have no PyTorch."""


@export.command("onnx")
@click.argument("pipeline", type=FOLDER_OR_FILE)
@click.option("--output", type=FOLDER_OR_FILE, required=True, help="A new .onnx file.")
def export_onnx(pipeline: Path, output: Path) -> None:
    """The network as ONNX, compared with PyTorch's results before it is written.

    PIPELINE is a folder, or a name of `medmnist-diffusion models`. The file's metadata hold the sampler's steps as sums: how
    images come out of it.
    """
    from medmnist_diffusion.publish.onnx_export import export_onnx

    click.echo(f"Written to {export_onnx(pipeline, output)}")


@commands.command()
@click.argument("pipelines", nargs=-1, type=FOLDER_OR_FILE)
@options.shown_dataset_option
@click.option("--port", type=click.IntRange(1024, 65535), help="Default: the first free one from 7860 on.")
@click.option("--output", type=FOLDER_OR_FILE, default=Path("runs/app"), help="For ratings (default runs/app).")
@click.option("--no_browser", is_flag=True, help="Open none.")
def app(pipelines: tuple[Path, ...], dataset: Any, port: int | None, output: Path, no_browser: bool) -> None:
    """A page to look at pipelines: make images, vary one of yours, read the figures, rate real or generated.

    PIPELINES are folders, or names of `medmnist-diffusion models` (default: all of these). It is served on this machine only.
    """
    from medmnist_diffusion.app.start import start

    start(pipelines, dataset, port, output, not no_browser)


@commands.command()
@click.argument("pipeline", type=FOLDER_OR_FILE)
@click.option("--output", type=FOLDER_OR_FILE, required=True, help="A new folder, or one that this command wrote.")
@click.option(
    "--runtime", type=FOLDER_OR_FILE, help="The file of the npm package onnxruntime-web (default: npm gets it, once)."
)
def page(pipeline: Path, output: Path, runtime: Path | None) -> None:
    """A folder that makes images in anybody's browser, without a server that computes.

    PIPELINE is a folder, or a name of `medmnist-diffusion models`. Any web server shows it, also a static Space of the Hub.
    """
    from medmnist_diffusion.app.page import write_page

    write_page(pipeline, output, runtime)


@commands.command()
@click.argument("pipeline", type=FOLDER_OR_FILE)
@options.publishing_options
@click.option("--space", is_flag=True, help="Its page, as a static Space: `page` in anybody's browser, at the Hub.")
@click.option("--runtime", type=FOLDER_OR_FILE, help="Of a Space: as `page` takes it.")
def publish(
    pipeline: Path,
    repo_id: str,
    public: bool,
    update: bool,
    dry_run: bool,
    data_license: str | None,
    space: bool,
    runtime: Path | None,
) -> None:
    """Check an evaluated pipeline folder and upload it to the Hugging Face Hub.

    PIPELINE is a folder or a name of `medmnist-diffusion models`; REPO_ID is namespace/name on the Hub, made if it is not there.
    """
    how: dict[str, Any] = {"private": not public, "update": update, "dry_run": dry_run, "data_license": data_license}
    if space:
        from medmnist_diffusion.app.page import publish_space

        publish_space(pipeline, repo_id, runtime=runtime, **how)
        return
    if runtime:
        raise UserError("--runtime belongs to --space.")
    from medmnist_diffusion.publish.publish import publish_pipeline

    publish_pipeline(pipeline, repo_id, **how)


@commands.command("publish-dataset")
@click.argument("images", type=FOLDER_OR_FILE)
@options.publishing_options
@click.option(
    "--pipeline", type=FOLDER_OR_FILE, required=True, help="The evaluated pipeline folder that made the images."
)
@click.option(
    "--study", type=FOLDER_OR_FILE, help="The folder of an augmentation study of the same data: its verdicts."
)
def publish_dataset(
    images: Path,
    repo_id: str,
    public: bool,
    update: bool,
    dry_run: bool,
    data_license: str | None,
    pipeline: Path,
    study: Path | None,
) -> None:
    """The same for generated images, which `sample` wrote: as parquet with a card."""
    from medmnist_diffusion.publish.dataset import publish_dataset

    publish_dataset(
        images, repo_id, pipeline=pipeline, study=study, private=not public, update=update, dry_run=dry_run,
        data_license=data_license,
    )  # fmt: skip


@commands.group(cls=Group)
def study() -> None:
    """Many trainings, one answer. loss: which recipe? augmentation: do generated images help? Tested over seeds."""


@study.command("loss")
@options.dataset_argument
@click.option("--output", type=FOLDER_OR_FILE, help="A folder (default runs/loss-DATASET); the same one goes on.")
@click.option("--parts", multiple=True, type=click.Choice(choices.LOSS_PARTS), help="Default: all.")
@click.option("--seeds", type=AT_LEAST_1, default=3, help="Trainings of each variant (default 3).")
@click.option("--max_train_steps", type=AT_LEAST_1, default=2000, help="Of each cell in losses and robustness.")
@click.option("--max_train_minutes", type=ABOVE_0, default=3.0, help="Of each cell in the other two (default 3).")
@click.option(
    "--num_images",
    type=AT_LEAST_1,
    default=2100,
    help="Generated images that are judged, a cell (default 2100; beside losses at most 500).",
)
@click.option(
    "--features",
    multiple=True,
    type=click.Choice(["inception", "random", options.NOTHING]),
    metavar="[inception|random]",
    help="The four Inception dimensions, beside classifier and texture in the part losses (default: the official weights where "
    "they are at hand, else seeded random ones; give nothing for none).",
)
@click.option("--inception_weights", type=FOLDER_OR_FILE, help="The official weights file.")
@options.study_options("this process, with all cores")
@click.pass_context
def study_loss(ctx: click.Context, /, **given: Any) -> None:
    """Which loss, which recipe? The source study's table, redone with floors, seeds and tests."""
    if _said_status("loss", given):
        return
    from medmnist_diffusion.studies.loss.study import study_loss

    features = [name for name in given["features"] if name != options.NOTHING] if given["features"] else None
    chosen = {"features": features, "parts": given["parts"] or choices.LOSS_PARTS}
    study_loss(**{**given, **chosen}, command=_as_typed(ctx))


@study.command("augmentation")
@options.dataset_argument
@click.option(
    "--output",
    type=FOLDER_OR_FILE,
    help="A folder (default runs/augmentation-DATASET, or runs/SITUATION-DATASET); the same one goes on.",
)
@click.option("--situation", type=click.Choice(choices.SITUATIONS), default="few-images", help=choices.SITUATION_HELP)
@click.option(
    "--shares",
    multiple=True,
    type=float,
    help="Of the real images, in 0 … 1 (default: the situation's). Of rare-class: of the rarest class's images.",
)
@click.option(
    "--imbalance",
    type=float,
    help="Of few images one more regime: the rarest class cut to this share (0: none; default 0.05).",
)
@click.option(
    "--seeds",
    type=AT_LEAST_2,
    help="Draws of subset, generator and classifier (default 8); with --effect at most so many (default 64).",
)
@click.option(
    "--effect",
    type=ABOVE_0,
    help="End after 8, 16, 32 or 64 draws, once generated images help or harm, or so small an effect would have shown: 0.005.",
)
@click.option(
    "--arms",
    multiple=True,
    metavar="ARM ...",
    help="Beside the controls and synthetic-25 (default: all); docs/augmentation.md lists them, and a wrong name does.",
)
@click.option("--classifier", type=click.Choice(["small-cnn", "resnet18"]), default="small-cnn")
@click.option("--classifier_steps", type=AT_LEAST_1, default=300, help="Default 300.")
@click.option("--max_train_steps", type=AT_LEAST_1, default=1500, help="Of each generator (default 1500).")
@click.option("--num_images", type=AT_LEAST_1, default=2000, help="Generated for each draw (default 2000).")
@options.study_options("one a core; on a GPU 1")
@click.option(
    "--leaky",
    is_flag=True,
    help="Also show how much a leak inflates: an arm whose generator saw the whole training set.",
)
@click.option(
    "--outside", help="Another set with real images: of outside-data, and of synthetic-first one more control."
)
@click.option(
    "--target_epsilon", type=float, multiple=True, metavar="E ...",
    help="Of sharing: also compare generators with differential privacy, one for each ε (needs the extra `private`).",
)  # fmt: skip
@click.option(
    "--pretrained_model_name_or_path", help="Of outside-data: a pipeline of that set, which generators start from."
)
@click.pass_context
def study_augmentation(ctx: click.Context, /, **given: Any) -> None:
    """Do generated images help a classifier? A generator and classifiers for every amount of real data, and a verdict."""
    if _said_status(choices.study_kind(given["situation"]), given):
        return
    from medmnist_diffusion.studies.augmentation.study import study_augmentation

    chosen = {name: given[name] or None for name in ("arms", "shares")}
    study_augmentation(**{**given, **chosen}, command=_as_typed(ctx))


def _said_status(kind: str, given: dict[str, Any]) -> bool:
    """Whether nothing was asked for but how far the study is, which is then printed."""
    if asked := given.pop("status"):
        from medmnist_diffusion.studies.run import study_status

        click.echo(study_status(kind, given["dataset"], given["output"]))
    return bool(asked)


def _as_typed(ctx: click.Context) -> str:
    return "medmnist-diffusion " + shlex.join(ctx.obj)


@commands.command()
@click.option("--output", type=FOLDER_OR_FILE, default=Path("runs/demo"), help="A new folder (default runs/demo).")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True, max=1e6),
    default=1.0,
    help="Training time (default 1).",
)
def demo(output: Path, minutes: float) -> None:
    """Audit, train, sample, evaluate and card on the phantom set, in minutes."""
    from medmnist_diffusion.demo import demo

    demo(output, minutes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/robustness.md lists them)."""
    return run_command(run, arguments)


def run(arguments: Sequence[str]) -> None:
    """The same, with errors raised."""
    try:
        with messages_shown():
            commands.main(list(arguments), prog_name="medmnist-diffusion", standalone_mode=False, obj=list(arguments))
    except click.ClickException as error:
        raise UserError(_one_line(error)) from None
    except click.Abort:
        raise KeyboardInterrupt from None


def _one_line(error: click.ClickException) -> str:
    """click's words, with the command whose help says more."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "medmnist-diffusion"
    said = " ".join(error.format_message().split())
    end = "" if said.endswith((".", "?")) else "."
    return f"{said}{end} See {command} --help."


if __name__ == "__main__":
    sys.exit(main())
