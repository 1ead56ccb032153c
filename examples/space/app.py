"""The page of `medmnist-diffusion app` as a Space of the Hugging Face Hub. README.md here says how to make one."""

from pathlib import Path

from medmnist_diffusion.app.start import start_on_a_server
from medmnist_diffusion.console import messages_shown

own = sorted(path.parent for path in Path("pipelines").glob("*/model_index.json"))
with messages_shown():
    start_on_a_server(own)  # where there are none: those that come with the package
