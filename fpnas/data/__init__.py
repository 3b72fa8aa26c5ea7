"""Labelled pictures: prepared once into shards, then read in an order that can be resumed."""

from fpnas.data.augment import (
    AUGMENTATIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    default_augmentation,
    get_augmentation,
    normalize,
)
from fpnas.data.class_names import ClassInfo
from fpnas.data.dataset import Dataset
from fpnas.data.loader import Batch, ImageLoader
from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import DatasetSummary, check, prepare

__all__ = [
    "AUGMENTATIONS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "Batch",
    "ClassInfo",
    "Dataset",
    "DatasetSummary",
    "ImageLoader",
    "PrepareOptions",
    "check",
    "default_augmentation",
    "get_augmentation",
    "normalize",
    "prepare",
]
