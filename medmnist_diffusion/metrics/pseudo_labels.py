"""Labels that a classifier gives to images without any (pseudo-labels)."""

import numpy as np

from medmnist_diffusion.data.conditioning import Conditioning, conditions_of
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.mixed_training import ImageClassifier


def pseudo_labelled(model: ImageClassifier, others: Split, train: Split, conditioning: Conditioning) -> Split:
    """The images of `others`, each as of the class that the model finds most likely; of several labels an image each label as
    often as in train (`surest`)."""
    logits = predicted_logits(model, others).numpy()
    if conditioning.multi_label:
        found = conditions_of(surest(logits, conditioning.matrix(train.labels).mean(0)))
    else:
        found = logits.argmax(1)
    return Split("unlabelled", others.images, found)


def surest(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """bool N×K: each of K labels on the share of N images that has the highest scores (N×K) for it. With a threshold of 0.5 a rare
    label would hardly ever be found (aligned distributions: Berthelot et al. 2020, ReMixMatch, arXiv 1911.09785)."""
    ranks = np.argsort(np.argsort(-scores, axis=0, kind="stable"), axis=0)
    return ranks < np.round(shares * len(scores))
