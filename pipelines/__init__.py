"""The pipelines: each one self-contained file that also works without this package."""

from medmnist_diffusion.pipelines.class_conditional_ddpm import (
    ClassConditionalDDPMPipeline,
    PixelUnshuffle,
    UnusableImagesError,
    label_vectors,
    label_width,
)

__all__ = ["ClassConditionalDDPMPipeline", "PixelUnshuffle", "UnusableImagesError", "label_vectors", "label_width"]
