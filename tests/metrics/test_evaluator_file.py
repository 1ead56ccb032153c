"""Files for the official evaluator: it reads them, and finds the AUC and ACC that we find."""

from pathlib import Path

import numpy as np
import pytest
from medmnist import Evaluator

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.metrics.classifier_scores import figures_of, probabilities, scores_of
from medmnist_diffusion.metrics.evaluator_file import write_evaluator_file


@pytest.mark.parametrize("flag", ["pneumoniamnist", "retinamnist"])
def test_the_official_tool_confirms_our_figures(
    flag: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    dataset = load_dataset(flag, real_data)
    labels = dataset.splits["test"].labels
    logits = torch.randn(len(labels), dataset.num_classes, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(labels)), torch.from_numpy(labels)] += 1
    scores = scores_of(logits)
    path = write_evaluator_file(tmp_path, dataset, probabilities(scores), "draw1")
    ours = figures_of(scores, labels)
    assert path.name == f"{flag}_test_[AUC]{ours['auc']:.3f}_[ACC]{ours['acc']:.3f}@draw1.csv"
    monkeypatch.setattr(Evaluator.__init__, "__defaults__", (None, str(real_data)))
    official = Evaluator.parse_and_evaluate(str(path))
    assert pytest.approx(ours["auc"], abs=1e-9) == official.AUC
    assert pytest.approx(ours["acc"], abs=1e-9) == official.ACC
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # it writes its own under the same name


def test_other_sets_have_no_official_file(tmp_path: Path) -> None:
    dataset = load_dataset("phantom")
    with pytest.raises(ValueError, match="MedMNIST"):
        write_evaluator_file(tmp_path, dataset, np.zeros((len(dataset.splits["test"]), 4)), "x")
