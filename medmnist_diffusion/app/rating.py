"""Real or generated? Images in a hidden order, one answer an image, so that looking becomes a measurement with an interval.

Half of the images are held-out real ones, half are generated, of one class mix. Every answer is saved as it is given.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.intervals import share_interval

IMAGES = 60


class Rating:
    """The images in their hidden order, and the answers so far (in `path`, as they are given)."""

    def __init__(self, real: np.ndarray, generated: np.ndarray, path: Path) -> None:
        """Args:
            real, generated: uint8 N×H×W×C, or volumes, as many of either.
            path: of the answers; where it exists, the rating goes on in its order.

        Raises:
            UserError: if `path` is no rating of so many images.
        """
        self.path = path
        self.answers: list[bool] = []
        self.order: list[int] = np.random.default_rng().permutation(len(real) + len(generated)).tolist()
        if path.is_file():
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))
                self.answers, self.order = saved["said_real"], saved["order"]
                if sorted(self.order) != list(range(len(real) + len(generated))) or len(self.answers) > len(
                    self.order
                ):
                    raise ValueError("other images")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is no rating of these images ({error}). Remove it to start anew.") from None
        self.images = np.concatenate([real, generated])[self.order]
        self.is_real = [at < len(real) for at in self.order]

    @property
    def current(self) -> int | None:
        """Which image is to be answered; None if all are."""
        return len(self.answers) if len(self.answers) < len(self.images) else None

    def answer(self, index: int, said_real: bool) -> None:
        """Only the image that is shown can be answered: a key pressed twice counts once."""
        if index == self.current:
            self.answers.append(said_real)
            known = self.is_real[: len(self.answers)]
            write_json(self.path, {"order": self.order, "said_real": self.answers, "is_real": known, **self.result()})

    def result(self) -> dict[str, Any]:
        """Rated images, the share told right, and its 95 % interval (0.5 is guessing)."""
        n = len(self.answers)
        right = sum(said == truth for said, truth in zip(self.answers, self.is_real, strict=False))
        return {"rated": n, "accuracy": right / n, "interval": share_interval(right, n)} if n else {"rated": 0}

    def in_words(self) -> str:
        """The same as a sentence or two."""
        result, left = self.result(), len(self.images) - len(self.answers)
        if not result["rated"]:
            return f"{left} images: is each one real, or generated?"
        low, high = result["interval"]
        right = (
            f"Told right: {result['accuracy']:.2f} of {result['rated']} ({low:.2f} … {high:.2f}; guessing gives 0.50)."
        )
        return f"{left} images are left." if left else f"{right} Saved to {self.path}."


def start_rating(dataset: ImageDataset, generate: Callable[[np.ndarray], np.ndarray], path: Path) -> Rating:
    """Generated images beside held-out ones; answers that were given before are kept.

    Args:
        generate: makes images of the given conditions.

    Raises:
        UserError: if there are no held-out images.
    """
    held_out = clean_held_out(dataset)
    if not len(held_out):
        raise UserError(
            f"{dataset.name} has no held-out image that does not stand in train, too: nothing to rate beside."
        )
    rows = np.random.default_rng(0).permutation(len(held_out))[: IMAGES // 2]
    return Rating(held_out.images[rows], generate(held_out.labels[rows]), path)
