"""`train` with `--push_to_hub`: what would be refused after hours is asked first; then train, evaluate, publish."""

from pathlib import Path

from accelerate import PartialState

from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.publish.hub import check_replaceable, check_repo_id, check_token
from medmnist_diffusion.publish.publish import publish_pipeline
from medmnist_diffusion.training.config import TrainingConfig
from medmnist_diffusion.training.evaluate_fid import evaluate
from medmnist_diffusion.training.setup import source_of
from medmnist_diffusion.training.train import train


def train_and_publish(config: TrainingConfig) -> Path:
    """Train, evaluate and publish privately. Returns the pipeline folder.

    Raises:
        UserError: before training, for what could not be published.
    """
    repo_id = checked_repo_id(config)
    folder = train(config)
    if not (folder / "metrics.json").is_file():
        evaluate(folder, source_of(config), unlabeled=config.unlabeled)
    if PartialState().is_main_process:
        check_replaceable(repo_id)
        publish_pipeline(folder, repo_id, update=True, data_license=config.data_license)
    return folder


def checked_repo_id(config: TrainingConfig) -> str:
    """The Hub id, if everything is there that publishing will need.

    Raises:
        UserError: without a valid Hub id, a token, or with a licence that does not permit publication; for a repository that holds
            something else.
    """
    if config.hub_model_id is None:
        raise UserError("--push_to_hub needs --hub_model_id: namespace/name.")
    check_repo_id(config.hub_model_id)
    check_token()
    check_replaceable(config.hub_model_id)
    if config.data_license not in (None, *OPEN_LICENSES):
        raise UserError(
            f"--data_license is {config.data_license!r}; publishing needs one of {', '.join(OPEN_LICENSES)}."
        )
    return config.hub_model_id
