"""Generated images with what they were asked to show and the record of what made them: to look at, to train on, to write."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from medmnist_diffusion.artifacts import SamplesRecord
from medmnist_diffusion.choices import Format
from medmnist_diffusion.data.conditioning import Conditioning, occurrences, rows_of
from medmnist_diffusion.data.dataset import Split, without_grey_axis
from medmnist_diffusion.data.nifti import check_nifti, write_nifti
from medmnist_diffusion.data.npz import npz_arrays, write_npz
from medmnist_diffusion.data.pictures import grid_picture
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_folder, has_suffix, write_json

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class GeneratedImages:
    """What `generate` makes.

    Attributes:
        split: the images and their conditions.
        record: what made them, and how.
    """

    split: Split
    record: SamplesRecord

    def __len__(self) -> int:
        return len(self.split)

    @property
    def images(self) -> np.ndarray:
        """uint8 N×H×W×C, volumes N×D×H×W×C."""
        return self.split.images[:]

    @property
    def labels(self) -> np.ndarray:
        """Class ids, int64 N; of several labels an image zeros and ones, uint8 N×K."""
        return self.conditioning.truth(self.split.labels)

    @property
    def conditioning(self) -> Conditioning:
        """The classes or labels by their names."""
        return record_conditioning(self.record)

    @property
    def names(self) -> list[str]:
        """What each image was asked to show, in words, N."""
        return [self.conditioning.name_of(condition) for condition in self.split.labels.tolist()]

    def grid(self, most: int = 10) -> Image.Image:
        """A picture to look at: a row a class or combination of labels, with at most so many images; of volumes some views."""
        conditions, counts = np.unique(self.split.labels, return_counts=True)
        columns = min(most, int(counts.max()))
        rows = np.full((len(conditions) * columns, *self.images.shape[1:]), 255, np.uint8)
        for row, condition in enumerate(conditions.tolist()):
            shown = self.images[rows_of(self.split.labels, condition)[:columns]]
            rows[row * columns : row * columns + len(shown)] = shown
        return grid_picture(rows, columns)

    def as_torch_dataset(self) -> TensorDataset:
        """Pairs to train a classifier on: the image, float32 C×H×W in 0 … 1 (volumes C×D×H×W), as torchvision's ToTensor makes it;
        and its class id, int64, or of several labels zeros and ones, float32 K."""
        images = torch.from_numpy(self.images).movedim(-1, 1).contiguous().float() / 255
        labels = torch.from_numpy(self.labels.astype(np.float32 if self.conditioning.multi_label else np.int64))
        return TensorDataset(images, labels)

    def as_datasets(self) -> "datasets.Dataset":
        """A `datasets.Dataset` with the columns `image` and `label` (several: `labels`).

        Raises:
            UserError: for volumes, which it has no type for.
        """
        return table_of(self.split, self.conditioning)

    def save(self, output: str | Path, output_format: Format | None = None) -> Path:
        """Write them, with the record of how they were made.

        Args:
            output: a new folder, or a new .npz file.
            output_format: default npz for a .npz output, else PNG folders, or NIfTI files of volumes.

        Raises:
            UserError: if the output exists, or cannot hold such images.
        """
        output = Path(output).expanduser()
        output_format = format_for(output, output_format)
        check_new(output)
        check_format(self.images.shape[1:], output_format)
        {"folder": _write_folder, "npz": write_samples, "parquet": _write_parquet}[output_format](output, self)
        return output


def record_conditioning(record: SamplesRecord) -> Conditioning:
    """What the images of a record can show."""
    return Conditioning(record.id2label, record.task)


def format_for(output: Path, asked: Format | None) -> Format:
    """The format that was asked for, or the one that the output's name means.

    Raises:
        UserError: if the two contradict each other.
    """
    if asked == "npz" and not has_suffix(output, ".npz"):
        raise UserError(f"--output {output} does not end with .npz, as --format npz needs.")
    return asked or ("npz" if has_suffix(output, ".npz") else "folder")


def check_new(output: Path) -> None:
    """Raises:
    UserError: if the output exists, or the record that is written beside an npz.
    """
    for path in (output, *([output.with_suffix(".json")] if has_suffix(output, ".npz") else [])):
        if path.exists():
            raise UserError(f"{path} exists already. Choose another --output, or remove it.")


def check_format(shape: Sequence[int], output_format: Format) -> None:
    """Whether a format can hold images H×W×C, or volumes D×H×W×C.

    Raises:
        UserError: if not; before the first one is made.
    """
    if len(shape) > 3 and output_format == "parquet":
        raise UserError("--format parquet holds pictures, and these are volumes: use npz or folder (NIfTI files).")
    if len(shape) > 3 and output_format == "folder":
        check_nifti(shape[-1])


def _write_folder(output: Path, made: GeneratedImages) -> None:
    """PNGs in class folders, with metadata.csv: file_name, label, label_name, index and how they were drawn."""
    conditioning, how = made.conditioning, made.record.model_dump(exclude={"id2label", "task"}, exclude_none=True)
    volumes = made.images.ndim > 4
    with atomic_folder(output) as temporary:
        lines = []
        for (condition, index), image in zip(occurrences(made.split.labels), made.images, strict=True):
            name = f"{conditioning.folder_of(condition)}/{index:06d}{'.nii.gz' if volumes else '.png'}"
            (temporary / name).parent.mkdir(exist_ok=True)
            if volumes:
                write_nifti(temporary / name, image)
            else:
                Image.fromarray(without_grey_axis(image)).save(temporary / name)
            shown = _label_columns(conditioning, condition)
            lines.append({"file_name": name, **shown, "index": index, **how})
        with (temporary / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def _label_columns(conditioning: Conditioning, condition: int) -> dict[str, Any]:
    """Of metadata.csv: a class by its id and name; several labels by their names, with a bar between."""
    if conditioning.multi_label:
        names = [conditioning.id2label[label] for label in conditioning.labels_in(condition)]
        return {"labels": "|".join(names) + "|" * (len(names) < 2)}  # a bar in every row: it is a list
    return {"label": condition, "label_name": conditioning.id2label[condition]}


def write_samples(output: Path, made: GeneratedImages) -> None:
    """MedMNIST's six arrays, the images as train, val and test without rows; how they were drawn goes beside it as JSON."""
    empty = made.split.subset(np.arange(0))
    arrays = npz_arrays({"train": made.split, "val": empty, "test": empty}, made.conditioning)
    write_npz(output, arrays, made.record.model_dump(mode="json"))


def _write_parquet(output: Path, made: GeneratedImages) -> None:
    """A folder that `datasets.load_dataset` reads: an Image column, a ClassLabel column, and how they were drawn."""
    with atomic_folder(output) as temporary:
        write_parquet(temporary, "train", made.split, made.conditioning)
        write_json(temporary / "sampling.json", made.record.model_dump(mode="json"))


def write_parquet(folder: Path, name: str, split: Split, conditioning: Conditioning, **columns: Sequence[Any]) -> None:
    """One split of a folder that `datasets.load_dataset` reads, as `table_of` makes it.

    Args:
        name: the split's, as the Hub has it: train, validation or test.
    """
    table = table_of(split, conditioning, **columns)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(folder / "data" / f"{name}-00000-of-00001.parquet"))


def table_of(split: Split, conditioning: Conditioning, **columns: Sequence[Any]) -> "datasets.Dataset":
    """A split as a table: an Image column, a ClassLabel column (of several labels an image a list of them), and others.

    Raises:
        UserError: for volumes.
    """
    import datasets

    if split.images.ndim > 4:
        raise UserError("a table of `datasets` holds pictures, and these are volumes: write an npz.")
    shown = [Image.fromarray(without_grey_axis(image)) for image in split.images[:]]
    kind: Any = datasets.ClassLabel(names=conditioning.names)
    labels = [conditioning.asked(condition) for condition in split.labels.tolist()]
    label = "labels" if conditioning.multi_label else "label"
    if conditioning.multi_label:
        kind = datasets.Sequence(kind)
    table = datasets.Dataset.from_dict({"image": shown, label: labels, **columns})
    return table.cast_column("image", datasets.Image()).cast_column(label, kind)
