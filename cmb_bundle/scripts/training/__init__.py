"""Train both stages."""

from .calibration import calibrate, fit_scaling
from .checkpoint import TrainingCheckpoint
from .completion import finish_training, join_weights
from .cross_validation import CrossValidation, print_folds
from .distributed import (
    DistributedBatchSampler,
    LossReweighting,
    SynchronisedBatchNorm,
    first_process_first,
    gather,
    indices_of_this_process,
    parallel,
    start_processes,
    synchronise_batch_norm,
)
from .handlers import EpochSeed, EpochTable, Progress, first_output
from .lock import OutputLock
from .losses import BatchMeanCrossEntropy
from .metrics import CandidateFROC, FindingsFROC
from .multiscale import MultiScale
from .patches import PatchCollector, margin_to_turn
from .settings import compare_settings, run_settings
from .trainer import StageTrainer, collate_slices, prepare_slices, sum_of_losses

__all__ = [
    "BatchMeanCrossEntropy",
    "CandidateFROC",
    "CrossValidation",
    "DistributedBatchSampler",
    "EpochSeed",
    "EpochTable",
    "FindingsFROC",
    "LossReweighting",
    "MultiScale",
    "OutputLock",
    "PatchCollector",
    "Progress",
    "StageTrainer",
    "SynchronisedBatchNorm",
    "TrainingCheckpoint",
    "calibrate",
    "collate_slices",
    "compare_settings",
    "finish_training",
    "first_output",
    "first_process_first",
    "fit_scaling",
    "gather",
    "indices_of_this_process",
    "join_weights",
    "margin_to_turn",
    "parallel",
    "prepare_slices",
    "print_folds",
    "run_settings",
    "start_processes",
    "sum_of_losses",
    "synchronise_batch_norm",
]
