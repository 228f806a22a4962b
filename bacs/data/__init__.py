"""Datasets, task splits and the scenario modes of continual segmentation."""

from bacs.data.base import Scenes, SceneSet, SegmentationData, StepView, normalise
from bacs.data.digit_config import DigitsConfig, check
from bacs.data.digits import Digits
from bacs.data.scenario import IGNORE, MODES, label_table, presence_of, select_images, select_seen
from bacs.data.splits import DomainSplit, TaskSplit, parse_domains, parse_split

__all__ = [
    "IGNORE",
    "MODES",
    "Digits",
    "DigitsConfig",
    "DomainSplit",
    "SceneSet",
    "Scenes",
    "SegmentationData",
    "StepView",
    "TaskSplit",
    "check",
    "label_table",
    "normalise",
    "parse_domains",
    "parse_split",
    "presence_of",
    "select_images",
    "select_seen",
]
