"""Stage 1: from a network's raw tensor to boxes on slices and candidates in the volume."""

from .anchors import fit_anchors, fit_training_anchors
from .boxes import check_finite, non_max_suppression, select_boxes, without_meta
from .candidates import CANDIDATE_COLUMNS, candidates_from_table, candidates_to_table, merge_slices
from .region_loss import RegionLoss, centre_size_iou, predicted_boxes, split_predictions
from .retinanet import ResNetPyramid, RetinaNet2DDetector, RetinaNet2DNetwork
from .yolov2 import YOLOv2Detector

__all__ = [
    "CANDIDATE_COLUMNS",
    "RegionLoss",
    "ResNetPyramid",
    "RetinaNet2DDetector",
    "RetinaNet2DNetwork",
    "YOLOv2Detector",
    "candidates_from_table",
    "candidates_to_table",
    "centre_size_iou",
    "check_finite",
    "fit_anchors",
    "fit_training_anchors",
    "merge_slices",
    "non_max_suppression",
    "predicted_boxes",
    "select_boxes",
    "split_predictions",
    "without_meta",
]
