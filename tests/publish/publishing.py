"""The arguments and the environment of a publication to the Hub of hub_server.py."""

from pathlib import Path

from tests.publish.hub_server import WRITE_TOKEN, Hub

REPO = "tester/phantom-28"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def environment(hub: Hub, token: str = WRITE_TOKEN) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def publishing(folder: Path, *options: str, repo: str = REPO) -> list[str]:
    return ["publish", str(folder), repo, "--data_license", "CC0 1.0", *options]
