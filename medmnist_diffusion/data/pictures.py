"""Images and volumes as pictures to look at: side by side in a grid, volumes by views."""

import numpy as np
from PIL import Image

from medmnist_diffusion.data.dataset import without_grey_axis

VIEWS = "each volume: the middle slice across its first, second and third axis, and the maximum along the first"
SCALE, WIDEST = 3, 1200  # each pixel of a small image becomes 3×3 in a grid, of at most so many pixels


def pictures(images: np.ndarray) -> np.ndarray:
    """Images as they are; volumes uint8 N×D×H×W×C as pictures N×max(D, H)×…×C: from left to right the middle slice across each
    axis, and the maximum along the first."""
    if images.ndim == 4:
        return images
    depth, height, width = (side // 2 for side in images.shape[1:4])
    views = [images[:, depth], images[:, :, height], images[:, :, :, width], images.max(1)]
    tallest = max(view.shape[1] for view in views)
    return np.concatenate(
        [np.pad(view, ((0, 0), (0, tallest - view.shape[1]), (0, 0), (0, 0))) for view in views], axis=2
    )


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 N×H×W×C → one uint8 image, rows of `columns` images with a thin gap; what is missing stays white."""
    images = pictures(images)
    rows = -(-len(images) // columns)
    height, width, channels = images.shape[1:]
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + 1), i % columns * (width + 1)
        grid[y : y + height, x : x + width] = image
    return grid


def grid_picture(images: np.ndarray, columns: int) -> Image.Image:
    """The same as a picture that is large enough to look at."""
    grid = image_grid(images, columns)
    scale = max(1, min(SCALE, WIDEST // grid.shape[1]))
    picture = Image.fromarray(without_grey_axis(grid))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
