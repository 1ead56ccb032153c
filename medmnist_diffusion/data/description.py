"""What an npz cannot say of itself: the names of its classes, its task, its licence, its source. A JSON file beside it says it.

The keys are those of `medmnist.INFO`: `label` (id → name), `task`, `license`, `description`, and `citation` beside them. What
`sample` and `augment` write beside an npz has `id2label` in the place of `label`, and is read as well.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medmnist_diffusion.data.conditioning import Task, task_in
from medmnist_diffusion.errors import UserError

LARGEST_JSON = 2**20
NAMES = ("label", "id2label")


class Description(BaseModel):
    """What the file says, as far as it is used; the defaults are those of a set without one."""

    model_config = ConfigDict(extra="ignore")

    id2label: dict[int, str] = {}
    task: str = ""
    license: str = "unknown"
    citation: str = ""
    description: str = ""

    @property
    def kind(self) -> Task:
        """What images are labelled with."""
        return task_in(self.task)

    @property
    def source(self) -> dict[str, Any]:
        """Licence, citation and description, as a data set has them."""
        return self.model_dump(include={"license", "citation", "description"})


def description_beside(npz: Path, notes: list[str]) -> Description:
    """What the JSON file of the same name says. One that is no such file, or names no classes, is not used, and that is noted.

    Raises:
        UserError: if it names classes and cannot be used.
    """
    path = npz.with_suffix(".json")
    if not path.is_file():
        return Description()
    values = _read(path)
    names = next((values[key] for key in NAMES if isinstance(values.get(key), dict)), None)
    if not names:
        notes.append(f"{path.name}, beside it, was not used: it names no classes (`label`, as in medmnist.INFO).")
        return Description()
    try:
        described = Description.model_validate({**values, "id2label": names})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"{path}: {where}: {problem['msg'].lower()}. Correct it, or move it elsewhere.") from None
    notes.append(f"Names of classes, task and licence are those that {path.name}, beside it, gives.")
    return described


def _read(path: Path) -> dict[str, Any]:
    """A small JSON object; empty if it is anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST_JSON else None
    except (OSError, ValueError, RecursionError):
        values = None
    return values if isinstance(values, dict) else {}


def class_names(description: Description, count: int, npz: Path) -> dict[int, str]:
    """Names of the ids 0 … count − 1: those of the description, or where it has none the numbers.

    Raises:
        UserError: if the description has other ids.
    """
    if not description.id2label:
        return {label: str(label) for label in range(count)}
    if sorted(description.id2label) != list(range(count)):
        raise UserError(
            f"{npz.with_suffix('.json')} names the classes {', '.join(map(str, sorted(description.id2label)))}; {npz.name} has "
            f"0 … {count - 1}. Name each of them, or move the JSON file elsewhere."
        )
    return dict(sorted(description.id2label.items()))
