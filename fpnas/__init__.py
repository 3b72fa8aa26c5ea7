"""FP-NAS: fast probabilistic neural architecture search (CVPR 2021), as a pipeline."""

__version__ = "0.1.0"
