"""`medmnist-diffusion app`: pipelines and data are checked first, then the page is shown."""

from collections.abc import Sequence
from pathlib import Path

from medmnist_diffusion.app.workbench import workbenches
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.shipped import shipped_folders


def start(
    pipelines: Sequence[Path],
    datasets: Sequence[str],
    root: str | None,
    port: int | None,
    ratings: Path,
    open_browser: bool,
) -> None:
    """Show the page until Ctrl-C.

    Raises:
        UserError: for a pipeline or a data set that cannot be used, or a missing extra.
    """
    benches = workbenches(pipelines or shipped_folders(), [load_dataset(name, root=root) for name in datasets])
    if not benches:
        raise UserError("no pipelines come with this installation. Give a pipeline folder.")
    from medmnist_diffusion.app.interface import build, serve

    serve(build(benches, ratings), port, open_browser)
