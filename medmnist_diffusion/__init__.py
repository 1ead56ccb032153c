"""Class-conditional diffusion models of small labelled medical image sets: train, evaluate, publish, judge."""

__version__ = "0.1.0"
