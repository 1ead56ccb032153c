"""The page of `medmnist-diffusion app` as a Space of the Hugging Face Hub. README.md here says how to make one."""

from pathlib import Path

from medmnist_diffusion.app.start import start_on_a_server

OWN = sorted(
    path.parent for path in Path("pipelines").glob("*/model_index.json")
)  # where there are none: what comes with the package

start_on_a_server(OWN)
