"""A generated chest phantom in MedMNIST's npz layout: seeded, no real patient, no download.

It is there so that every command runs offline in minutes, and so that tests can plant a truth. It is asked for by name and never
stands in for real data. Nothing learnt from it says anything about real images. `phantom` and `phantom-rgb` have four classes,
`phantom-multilabel` three findings that stand together or not at all, `phantom-ordinal` four grades, `phantom-3d` small volumes of
two shapes.
"""

from typing import Literal

import numpy as np

Form = Literal["multi-class", "multi-label", "ordinal", "volume"]
CLASSES = {0: "clear lungs", 1: "focal opacity", 2: "diffuse opacities", 3: "effusion"}
SHARES = np.array([0.4, 0.3, 0.2, 0.1])  # imbalanced, as medical sets are
SPLITS = {"train": 2400, "val": 480, "test": 480}
VOLUMES = {"train": 800, "val": 160, "test": 160}
DESCRIPTION = "Synthetic chest phantoms made by medmnist-diffusion: computed shapes, not images of patients."

FINDINGS = {0: "focal opacity", 1: "diffuse opacities", 2: "effusion"}  # of phantom-multilabel
GRADES = {0: "no effusion", 1: "small effusion", 2: "medium effusion", 3: "large effusion"}
SHAPES = {0: "one lobe", 1: "two lobes"}  # of phantom-3d
NAMES: dict[Form, dict[int, str]] = {
    "multi-class": CLASSES, "multi-label": FINDINGS, "ordinal": GRADES, "volume": SHAPES
}  # fmt: skip
_SUPERSAMPLING = 2  # rendered at twice the size and averaged, for soft edges


def make_phantom(
    channels: int = 1, size: int = 28, seed: int = 0, counts: dict[str, int] | None = None, form: Form = "multi-class"
) -> dict[str, np.ndarray]:
    """The six arrays of a MedMNIST npz: uint8 `{split}_images` N×H×W (grey), N×H×W×3 or N×D×H×W, and `{split}_labels` N×1 or N×3.

    Args:
        form: what the labels are; `volume` for binary shapes.
        channels: 1 for a grey set, 3 for a tinted one.
        size: height and width in pixels.
        seed: the same seed gives the same arrays; the splits of one seed share no image.
        counts: images a split; default 2,400 / 480 / 480.
    """
    arrays = {}
    for stream, (split, count) in enumerate((counts or SPLITS).items()):
        rng = np.random.default_rng([seed, stream])
        labels = _findings(count, rng) if form == "multi-label" else _classes(count, form, rng)
        at_once = max(1, 256 * 28**2 // max(size, 28) ** 2)  # a few hundred MB whatever the size
        parts = (labels[start : start + at_once] for start in range(0, count, at_once))
        if form == "volume":
            images = np.concatenate([_shapes(part, size, rng) for part in parts])
        else:
            images = np.concatenate([_render(_extents(part, form), size, channels, rng) for part in parts])
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = labels.astype(np.uint8).reshape(count, -1)
    return arrays


def _classes(count: int, form: Form, rng: np.random.Generator) -> np.ndarray:
    """Class ids N. Every class occurs even in a tiny split; the order is random."""
    classes = len(NAMES[form])
    shares = np.array([0.7, 0.3]) if form == "volume" else SHARES
    labels = np.arange(count) % classes
    labels[classes * 2 :] = rng.choice(classes, max(count - classes * 2, 0), p=shares)
    rng.shuffle(labels)
    return labels


def _findings(count: int, rng: np.random.Generator) -> np.ndarray:
    """Zeros and ones N×3: half of the images have none; an effusion is more likely beside another finding. Each finding stands
    alone and with others even in a tiny split."""
    rows = rng.random((count, 3)) < [0.3, 0.25, 0.1]
    rows[:, 2] |= rows[:, :2].any(1) & (rng.random(count) < 0.25)
    every = np.arange(min(count, 16)) % 8
    rows[: len(every)] = every[:, None] >> np.arange(3) & 1
    rng.shuffle(rows)
    return rows.astype(int)


def _extents(labels: np.ndarray, form: Form) -> np.ndarray:
    """How much of each finding an image shows, float N×3, 1 for an ordinary one."""
    if form == "multi-label":
        return labels.astype(float)
    if form == "ordinal":
        return np.stack([np.zeros(len(labels)), np.zeros(len(labels)), labels / 2], 1)
    return np.asarray(labels[:, None] == [1, 2, 3], float)


def _shapes(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 N×size×size×size, 0 and 255: an ellipsoid in a random place, and of class 1 a second one that grows out of it."""
    n, axis = len(labels), (np.arange(size) + 0.5) / size * 2 - 1
    place = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)  # D×H×W×3

    def ellipsoids(centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return np.asarray((((place - centres[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(-1) < 1)

    centres, radii = rng.uniform(-0.25, 0.25, (n, 3)), rng.uniform(0.25, 0.5, (n, 3))
    directions = rng.normal(size=(n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    others, lengths = rng.uniform(0.18, 0.3, (n, 3)), np.einsum("ij,ij->i", np.abs(directions), radii)[:, None]
    second = ellipsoids(centres + directions * (lengths + 0.15), others) & (labels == 1)[:, None, None, None]
    return (ellipsoids(centres, radii) | second).astype(np.uint8) * 255


def _render(extents: np.ndarray, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 N×size×size[×3] images with the given findings, N×3. Coordinates run from −1 to 1, y downwards."""
    n, grid = len(extents), size * _SUPERSAMPLING
    axis = (np.arange(grid) + 0.5) / grid * 2 - 1
    x, y = axis[None, None, :], axis[None, :, None]

    def vary(low: float, high: float) -> np.ndarray:
        return np.asarray(rng.uniform(low, high, (n, 1, 1)))

    # One patient a row: position, breadth, rotation, and a height of the diaphragm.
    angle, shift_x, shift_y = vary(-0.08, 0.08), vary(-0.08, 0.08), vary(-0.06, 0.06)
    x, y = (
        (x - shift_x) * np.cos(angle) + (y - shift_y) * np.sin(angle),
        (y - shift_y) * np.cos(angle) - (x - shift_x) * np.sin(angle),
    )

    def ellipse(cx: np.ndarray, cy: np.ndarray, rx: np.ndarray, ry: np.ndarray, softness: float) -> np.ndarray:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return np.asarray(1 / (1 + np.exp(np.clip((radius - 1) / softness, -30, 30))))

    breadth, height = vary(0.27, 0.36), vary(0.52, 0.66)
    body = ellipse(vary(0, 0), vary(0.15, 0.25), vary(0.88, 0.98), vary(1.15, 1.3), 0.06)
    left = ellipse(-vary(0.40, 0.48), vary(-0.08, 0.02), breadth, height, 0.09)
    right = ellipse(vary(0.40, 0.48), vary(-0.08, 0.02), breadth * vary(0.9, 1.0), height, 0.09)
    lungs = np.maximum(left, right)
    heart = ellipse(vary(0.08, 0.18), vary(0.22, 0.34), vary(0.24, 0.36), vary(0.28, 0.38), 0.12)
    spine = np.exp(-(((x - 0.02) / 0.09) ** 2))
    ribs = (0.5 + 0.5 * np.cos((y + 0.55 * np.abs(x) + vary(-0.1, 0.1)) * vary(17, 20))) ** 3

    image = 0.04 + body * vary(0.50, 0.62)
    image = image * (1 - lungs * vary(0.62, 0.76)) + 0.22 * spine * body + 0.09 * ribs * body * (0.4 + lungs)
    image = image + heart * vary(0.20, 0.30)

    # The findings. Faint ones overlap with the texture of clear lungs, as they should.
    side = np.where(rng.random((n, 1, 1)) < 0.5, -1.0, 1.0)
    focal = ellipse(side * vary(0.32, 0.52), vary(-0.38, 0.30), vary(0.10, 0.20), vary(0.10, 0.20), 0.25) * vary(
        0.22, 0.48
    )
    diffuse = np.zeros((n, grid, grid))
    for _ in range(7):
        cx = np.where(rng.random((n, 1, 1)) < 0.5, -1.0, 1.0) * vary(0.25, 0.60)
        diffuse += ellipse(cx, vary(-0.45, 0.40), vary(0.09, 0.18), vary(0.09, 0.18), 0.45) * vary(0.10, 0.24)
    level = vary(0.02, 0.34) - 0.3 * (
        extents[:, 2, None, None] - 1
    )  # the fluid's upper edge, higher at the chest wall
    fluid = 1 / (1 + np.exp(np.clip(-(y - level + 0.35 * (np.abs(x) - 0.4)) / 0.05, -30, 30)))
    effusion = fluid * np.where(side < 0, left, right) * vary(0.30, 0.45)
    focal_share, diffuse_share, fluid_share = (extents[:, finding, None, None] for finding in range(3))
    image = image + lungs * (focal_share * focal + diffuse_share * diffuse) + fluid_share.clip(max=1) * effusion

    image = image.reshape(n, size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean((2, 4))
    image = (image * vary(0.85, 1.15) + vary(-0.03, 0.05)).clip(0, 1) ** vary(0.85, 1.2)
    image = image + rng.normal(0, 0.012, image.shape)  # detector noise
    if channels == 3:  # a stain's tint, varying from image to image
        low, high = np.array([0.30, 0.12, 0.36]), np.array([0.98, 0.86, 0.94])
        tint = rng.normal(0, 0.03, (n, 1, 1, 3))
        image = low + (high - low + tint) * image[..., None]
    return np.asarray((image.clip(0, 1) * 255).round(), np.uint8)
