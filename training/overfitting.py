"""When training begins to memorize, and what is done then: the held-out loss rises beyond its noise; training stops, and the best
weights are kept.

Small sets come to that early. The held-out losses are of the same images, noise and timesteps every time, so that two of them are
compared image by image.
"""

import numpy as np

from medmnist_diffusion.diffusion.training_state import Best

RISEN, ERRORS = 1.01, 3.0  # times the best loss, and standard errors of the difference: both at once is no noise
PATIENCE, VALIDATIONS = 0.5, 3  # after the best step: half as many steps again, and so many validations at least
PASSES = 170  # over the training images, until the held-out loss rises: the low end of what small sets bore (docs/metrics.md)


def has_risen(losses: np.ndarray, best: Best, images: int) -> bool:
    """Whether held-out losses are above those of the best weights beyond their noise.

    Args:
        losses: N, of the weights now, on the fixed held-out batch.
        best: the weights of the lowest mean so far, with their losses.
        images: held-out images in the batch; after so many they come again.
    """
    if losses.mean() < RISEN * best.val_loss:
        return False
    if len(best.losses) != len(losses):  # of a checkpoint of version 0.1: the mean is all there is
        return True
    of_image = np.arange(len(losses)) % images
    difference = np.bincount(of_image, losses - best.losses) / np.bincount(of_image)
    return bool(difference.mean() > ERRORS * difference.std(ddof=1) / np.sqrt(len(difference)))


def patience_is_over(step: int, best_step: int, validation_steps: int) -> bool:
    """Whether no better weights came for so long that none are to be expected: the longer the better they took, the longer."""
    return step - best_step >= max(PATIENCE * best_step, VALIDATIONS * validation_steps)


def bearable_steps(images: int, images_a_step: int) -> int:
    """About how many optimizer steps a training set bears before its held-out loss rises: a rule of thumb (`PASSES`)."""
    return round(PASSES * images / images_a_step)
