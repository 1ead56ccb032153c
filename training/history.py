"""What a run was made with so far: a run that was begun with other settings or data goes on only if that is asked for."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from medmnist_diffusion.artifacts import BaseRecord, CheckpointState
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint, read_state
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import recover_folder
from medmnist_diffusion.training.config import (
    TrainingConfig,
    changed_budget,
    changed_settings,
    chosen_before,
    last_part,
    where_left_open,
)

FROM_BASE = ("layers_per_block", "attention")  # what a run takes from its base where it is left open
NOTHING = "none"  # no base, no unlabeled images


@dataclass(frozen=True)
class History:
    """Where a run stands before it goes on.

    Attributes:
        checkpoint: the newest whole one; None for a new run.
        saved: its state.
        data: which images and classes it is trained on.
        changed_now: `name: old → new` of settings and data that are now other ones.
        changes, extensions: all such changes so far, and those of the budget, with their step.
    """

    checkpoint: Path | None
    saved: CheckpointState | None
    data: dict[str, str]
    changed_now: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)

    @property
    def bases(self) -> list[BaseRecord]:
        """What the run started from."""
        return self.saved.bases if self.saved else []

    @property
    def comparable_from(self) -> int:
        """The step up to which losses are of other settings or data; −1 if there is none."""
        if self.saved is None:
            return -1
        return self.saved.step if self.changed_now else self.saved.comparable_from

    def check_batch(self, run: Path, images_a_step: int) -> None:
        """Raises:
        UserError: if a step would see another number of images than before.
        """
        before = self.saved.images_a_step if self.saved else None
        if before not in (None, images_a_step):
            raise UserError(
                f"{run} was trained with {before} images a step over all processes, now it would be {images_a_step}: other "
                "batches, another run. Use as many processes as before."
            )


def read_history(
    run: Path, config: TrainingConfig, dataset: ImageDataset, base: str = NOTHING, unlabeled: str = NOTHING
) -> tuple[TrainingConfig, History]:
    """The configuration, with what the run chose for itself before, and the run's history.

    Args:
        base: the hash of the weights that it starts from; a run that goes on has its start behind it, and needs none.
        unlabeled: the hash of the images that it sees without labels.

    Raises:
        UserError: if settings or data differ from the run's and `allow_changes` is not set.
    """
    for name in ("pipeline", "pipeline_best"):
        recover_folder(run / name)
    checkpoint = newest_checkpoint(run / "checkpoints")
    content = {**_content(config, dataset), "base": base[:12], "unlabeled images": unlabeled[:12]}
    if checkpoint is None:
        return config, History(None, None, content)
    saved = read_state(checkpoint)
    before = {"base": NOTHING, "unlabeled images": NOTHING, **saved.data} if saved.data else content
    config = _with_the_start(run, config, saved, base, before["base"])
    content["base"] = before["base"]
    changed = changed_settings(config, saved.config)
    changed += [f"{name}: {before[name]} → {new}" for name, new in content.items() if before.get(name, new) != new]
    if changed and not config.allow_changes:
        raise UserError(
            f"{run} holds a run with other settings or data ({'; '.join(changed)}). Use the same to resume it, or another "
            "--output_dir; or go on with the new ones by --allow_changes true."
        )
    at = f"step {saved.step}: "
    changes = [*saved.changes, *(at + change for change in changed)]
    extensions = [*saved.extensions, *(at + change for change in changed_budget(config, saved.config))]
    return chosen_before(config, saved.config), History(checkpoint, saved, content, changed, changes, extensions)


def _with_the_start(
    run: Path, config: TrainingConfig, saved: CheckpointState, base: str, before: str
) -> TrainingConfig:
    """The configuration with the start that the run once had, and what it took from there: whoever goes on need not name it.

    Raises:
        UserError: if another one is named, or the run is too old to know what its base was.
    """
    name, known = config.pretrained_model_name_or_path, saved.config.get("pretrained_model_name_or_path")
    same = name is None or (last_part(name) == last_part(known) if base == NOTHING else base[:12] == before)
    if not same:
        begun = f"from {known}" if before != NOTHING else "from nothing"
        raise UserError(
            f"{run} holds a run that has begun {begun}, not from {name}. Leave that out, or use another --output_dir."
        )
    if before != NOTHING and not saved.bases and base == NOTHING:
        raise UserError(f"{run} holds a run of an older version, which began from a pipeline: give that one again.")
    of_base = {one: saved.config[one] for one in FROM_BASE if saved.bases and one in saved.config}
    start = name if base != NOTHING else known
    return replace(config, pretrained_model_name_or_path=start, **where_left_open(config, of_base))


def _content(config: TrainingConfig, dataset: ImageDataset) -> dict[str, str]:
    """What identifies the data that a run is trained on; of test images only where leaks into them are dropped."""
    matters = ("train", "val", "test") if config.drop_leaks else ("train", "val")
    content = {f"{name} images": dataset.splits[name].content_hash[:12] for name in matters}
    return content | {"classes": ", ".join(dataset.id2label.values())}
