"""`medmnist-diffusion app`: pipelines and data are checked first, then the page is shown."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from medmnist_diffusion.app.workbench import Workbench, workbenches
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.diffusion.stopping import stopped_as_by_ctrl_c
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.shipped import shipped_folders

PRIVATE = "medmnist-diffusion-app-"  # how the folder of what readers upload and make begins


def start(
    pipelines: Sequence[Path], source: DataSource | None, port: int | None, ratings: Path, open_browser: bool
) -> None:
    """Show the page until Ctrl-C.

    Raises:
        UserError: for a pipeline or a data set that cannot be used, or a missing extra.
    """
    benches = _benches(pipelines, source)
    with _private_folder():
        from medmnist_diffusion.app.interface import build, serve

        serve(build(benches, ratings), port, open_browser)


def start_on_a_server(pipelines: Sequence[Path] = ()) -> None:
    """The page for everybody who can reach this machine: a Space of the Hugging Face Hub. It says so at its top.

    The address is Gradio's own choice: that of $GRADIO_SERVER_NAME, which a Space sets. The data that pipelines were trained on
    are not at hand there, so nothing is said about nearest images, and nobody is asked *real or generated?*.
    """
    benches = _benches(pipelines, None)
    with _private_folder() as private:
        from medmnist_diffusion.app.interface import NOTICE_OF_SERVER, build, serve

        serve(build(benches, private, NOTICE_OF_SERVER), None, False, server_name=None)


def _benches(pipelines: Sequence[Path], source: DataSource | None) -> dict[str, Workbench]:
    benches = workbenches(pipelines or shipped_folders(), source)
    if not benches:
        raise UserError("no pipelines come with this installation. Give a pipeline folder.")
    return benches


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for what readers upload and make, which nobody else can read. It is removed when the page ends, by Ctrl-C, SIGTERM
    or with its terminal; after SIGKILL or a power cut the next page removes it."""
    for left in Path(tempfile.gettempdir()).glob(f"{PRIVATE}*"):
        with contextlib.suppress(OSError, Timeout), _held(left):
            shutil.rmtree(left)
    with stopped_as_by_ctrl_c(), tempfile.TemporaryDirectory(prefix=PRIVATE) as private, _held(Path(private)):
        os.environ["GRADIO_TEMP_DIR"] = private  # before gradio is imported
        yield Path(private)


def _held(private: Path) -> FileLock:
    """Held by a page that runs."""
    return FileLock(private / ".lock", timeout=0)
