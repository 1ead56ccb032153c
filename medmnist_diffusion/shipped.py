"""The pipelines that come with the package: folders of model_cards, each called by its folder's name.

Wherever a pipeline is asked for, a name of these stands for its folder. As in diffusers, a folder of that name where the user
works comes first. What comes with the package is never written to.
"""

import shutil
from pathlib import Path

import medmnist_diffusion.model_cards
from medmnist_diffusion.files import atomic_folder

MODEL_CARDS = Path(medmnist_diffusion.model_cards.__path__[0])


def shipped_folders() -> list[Path]:
    """Those of the pipelines that come with the package, by name."""
    return sorted(path.parent for path in MODEL_CARDS.glob("*/model_index.json"))


def shipped_names() -> list[str]:
    """Their names."""
    return [folder.name for folder in shipped_folders()]


def pipeline_folder(pipeline: str | Path) -> Path:
    """Where a pipeline lies: a path as it stands, or for one of these names its folder in the package."""
    path = Path(pipeline).expanduser()
    return MODEL_CARDS / path if not path.exists() and str(path) in shipped_names() else path


def is_shipped(folder: Path) -> bool:
    """Whether a folder is one that comes with the package."""
    return folder.parent == MODEL_CARDS


def name_of(folder: Path) -> str:
    """What a reader knows a pipeline by: its folder, and where that is called `pipeline`, as training does, the run's, too."""
    name = folder.resolve().name
    return f"{folder.resolve().parent.name}/{name}" if name.startswith("pipeline") else name


def or_a_name() -> str:
    """For an error: what else could have been given."""
    names = shipped_names()
    return f" Or give a name of `medmnist-diffusion models`: {', '.join(names)}." if names else ""


def copied_here(folder: Path) -> Path:
    """A copy of a folder that comes with the package, with its name, where the user works: there it can be written to."""
    target = Path(folder.name)
    with atomic_folder(target) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return target
