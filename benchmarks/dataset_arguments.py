"""The arguments that name a data set, the same in every benchmark."""

import argparse


def add_dataset_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--dataset`, `--root` and `--size`, as the commands have them."""
    text = "a MedMNIST flag, an npz, an image folder, a Hub id, phantom or phantom-rgb"
    parser.add_argument("--dataset", required=default is None, default=default, help=text)
    parser.add_argument("--root", help="where MedMNIST files lie (default: $MEDMNIST_ROOT, else ~/.medmnist)")
    parser.add_argument("--size", type=int, help="pixels a side (default 28)")
