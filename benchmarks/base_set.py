"""Several sets of one size as one, all classes side by side: what a base to be fine-tuned is trained on.

    python benchmarks/base_set.py --data ../shared/data --without retinamnist --output build/base-without-retinamnist.npz
    medmnist-diffusion train --dataset build/base-without-retinamnist.npz --output_dir runs/base --max_train_minutes 20

Grey images become RGB ones with equal colours. A class is called by its set and its name, so that a fine-tuning that has the same
class finds it under `set: name` only if it is called so: classes of different sets are never mistaken for each other. The JSON
file beside the npz names classes, licence and sources. Test images are left out: what is trained or evaluated here are the sets'
train and val.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sets import SETS, described

from medmnist_diffusion.data import Conditioning, Split, load_dataset
from medmnist_diffusion.data.npz import npz_arrays, write_npz
from medmnist_diffusion.errors import UserError, run_command

MEMBERS = ("pneumoniamnist", "retinamnist", "pbc_blood_28")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with medmnist/ and own/")
    parser.add_argument("--without", choices=MEMBERS, nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.output.suffix != ".npz":
        raise UserError(f"--output {args.output} does not end with .npz.")
    names: list[str] = []
    images: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    labels: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    licenses, sources = list[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for member in (one for one in MEMBERS if one not in args.without):
            dataset = load_dataset(str(described(args.data / SETS[member], Path(folder) / member)))
            for name, parts in images.items():
                split = dataset.splits[name]
                parts.append(np.repeat(split.images[:], 3 // dataset.channels, axis=-1))
                labels[name].append(split.labels + len(names))
            names += [f"{member}: {one}" for one in dataset.conditioning.names]
            licenses.append(dataset.license)
            sources.append(dataset.citation)
    if len(set(licenses)) > 1:
        raise UserError(f"the sets have several licences ({', '.join(licenses)}): a base needs one.")
    splits = {name: Split(name, np.concatenate(images[name]), np.concatenate(labels[name])) for name in images}
    splits["test"] = Split("test", splits["val"].images, splits["val"].labels)
    label = dict(enumerate(names))
    members = sorted({name.partition(":")[0] for name in names})
    described_as = {
        "label": label,
        "license": licenses[0],
        "citation": " ".join(dict.fromkeys(sources)),
        "description": f"The training and val images of {', '.join(members)}, in RGB; its test images are its val images.",
    }
    write_npz(args.output, npz_arrays(splits, Conditioning(label)), described_as)
    print(f"{args.output}: {len(splits['train']):,} training images, {len(names)} classes")


if __name__ == "__main__":
    sys.exit(run_command(main))
