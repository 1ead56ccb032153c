"""All eighteen MedMNIST v2 sets as a Markdown table, from the installed medmnist: what they hold, and what is known about them.

python benchmarks/medmnist_table.py      # the table of docs/sets.md; a test holds the two against each other
"""

import sys
from collections.abc import Iterator, Sequence

from medmnist_diffusion.data.medmnist_files import KNOWN_ISSUES, medmnist_info, sizes_of, task_of
from medmnist_diffusion.errors import run_command

KINDS = {"multi-class": "classes", "ordinal": "grades", "multi-label": "labels, any number of them"}


def table() -> Iterator[str]:
    """A line a set."""
    yield "| flag | images | labels | train / val / test | sizes | licence | MD5 at 28 | MD5 at 64 |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for flag, info in medmnist_info().items():
        sizes, counts = sizes_of(flag), info["n_samples"]
        colour = "volumes" if flag.endswith("3d") else "RGB" if info["n_channels"] == 3 else "grey"
        yield (
            f"| `{flag}` | {colour} | {len(info['label'])} {KINDS[task_of(flag)]} | "
            f"{' / '.join(f'{counts[name]:,}' for name in ('train', 'val', 'test'))} | {', '.join(map(str, sizes))} | "
            f"{info['license']} | `{info['MD5']}` | `{info['MD5_64']}` |"
        )


def issues() -> Iterator[str]:
    """What an audit says about some of them."""
    for flag, known in KNOWN_ISSUES.items():
        for text, source in known:
            yield f"- `{flag}`: {text} ({source})."


def main(argv: Sequence[str]) -> None:
    print("\n".join([*table(), "", *issues()]))


if __name__ == "__main__":
    sys.exit(run_command(main))
