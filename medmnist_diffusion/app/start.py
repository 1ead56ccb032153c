"""`medmnist-diffusion app`: pipelines and data are checked first, then the page is shown."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medmnist_diffusion.app.workbench import Workbench, workbenches
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.shipped import shipped_folders


def start(
    pipelines: Sequence[Path], source: DataSource | None, port: int | None, ratings: Path, open_browser: bool
) -> None:
    """Show the page until Ctrl-C. What is uploaded to it, and made on it, lies in a folder that nobody else can read and that is
    removed at the end.

    Raises:
        UserError: for a pipeline or a data set that cannot be used, or a missing extra.
    """
    benches = _benches(pipelines, source)
    with tempfile.TemporaryDirectory(prefix="medmnist-diffusion-") as private:
        os.environ["GRADIO_TEMP_DIR"] = private  # before gradio is imported
        from medmnist_diffusion.app.interface import build, serve

        serve(build(benches, ratings), port, open_browser)


def _benches(pipelines: Sequence[Path], source: DataSource | None) -> dict[str, Workbench]:
    benches = workbenches(pipelines or shipped_folders(), source)
    if not benches:
        raise UserError("no pipelines come with this installation. Give a pipeline folder.")
    return benches


def start_on_a_server(pipelines: Sequence[Path] = ()) -> None:
    """The page for everybody who can reach this machine: a Space of the Hugging Face Hub. It says so at its top.

    The address is Gradio's own choice: that of $GRADIO_SERVER_NAME, which a Space sets. The data that pipelines were trained on
    are not at hand there, so nothing is said about nearest images, and nobody is asked *real or generated?*.
    """
    benches = _benches(pipelines, None)
    with tempfile.TemporaryDirectory(prefix="medmnist-diffusion-") as private:
        os.environ["GRADIO_TEMP_DIR"] = private  # before gradio is imported
        from medmnist_diffusion.app.interface import NOTICE_OF_SERVER, build, serve

        serve(build(benches, Path(private), NOTICE_OF_SERVER), None, False, server_name=None)
