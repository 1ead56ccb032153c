"""The end of a training with --push_to_hub: the pipeline is evaluated and published privately."""

from pathlib import Path

from accelerate import PartialState

from medmnist_diffusion.publish.hub import check_replaceable
from medmnist_diffusion.publish.publish import print_published_pipeline, publish
from medmnist_diffusion.training import evaluate_fid


def publish_trained(
    folder: Path, dataset: str, root: str | None, size: int | None, repo_id: str | None, data_license: str | None
) -> None:
    """Evaluate what training has just written, and publish it privately. All processes of a launch call this."""
    where = [part for name, value in (("root", root), ("size", size)) if value for part in (f"--{name}", str(value))]
    if not (folder / "metrics.json").is_file():
        evaluate_fid.main([str(folder), "--dataset", dataset, *where])
    if repo_id and PartialState().is_main_process:
        check_replaceable(repo_id)
        print_published_pipeline(publish(folder, repo_id, update=True, data_license=data_license))
