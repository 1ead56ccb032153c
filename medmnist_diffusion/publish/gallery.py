"""One generated image a class beside a published card: what the Hub shows of a model before anybody opens it."""

from pathlib import Path
from typing import Any

from medmnist_diffusion.data.pictures import grid_picture
from medmnist_diffusion.diffusion.sampling import conditioning_of, generate_images, load_pipeline
from medmnist_diffusion.publish.plots import MOST_CLASSES

GALLERY = "gallery"


def write_gallery(folder: Path) -> None:
    """PNGs 0, 1, … under `folder`/gallery, a class each; of volumes their views."""
    pipe = load_pipeline(folder)
    (folder / GALLERY).mkdir()
    for number, image in enumerate(generate_images(pipe, conditioning_of(pipe).ids[:MOST_CLASSES])):
        grid_picture(image[None], 1).save(folder / GALLERY / f"{number}.png", optimize=True)


def gallery_metadata(folder: Path, repo_id: str | None, names: list[str]) -> dict[str, Any]:
    """What the card's header says of the gallery, which lies in a folder that is to be published, and only there.

    Args:
        names: of the pictures, in their order.
    """
    files = sorted((folder / GALLERY).glob("*.png"), key=lambda path: int(path.stem))
    if not files:
        return {}
    shown = [
        {"text": name, "output": {"url": f"{GALLERY}/{path.name}"}} for name, path in zip(names, files, strict=False)
    ]
    thumbnail = {"thumbnail": f"https://huggingface.co/{repo_id}/resolve/main/samples.png"} if repo_id else {}
    return {"widget": shown, **thumbnail}
