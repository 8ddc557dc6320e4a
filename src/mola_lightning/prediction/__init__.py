"""Using a trained model: predictions of image files, calibrated probabilities, answers without a task id."""

from mola_lightning.prediction.agnostic import target_agnostic_accuracy
from mola_lightning.prediction.answers import Answers
from mola_lightning.prediction.calibration import calibrate, calibration_error, fit_temperature
from mola_lightning.prediction.choice_store import fit_linear_choice
from mola_lightning.prediction.choices import CHOICES, LeastEntropy, LinearChoice, TaskChoice
from mola_lightning.prediction.inputs import ImageFiles, find_images, transforms_for
from mola_lightning.prediction.parts import PartedTable
from mola_lightning.prediction.predict import predict_missing

__all__ = [
    "CHOICES",
    "Answers",
    "ImageFiles",
    "LeastEntropy",
    "LinearChoice",
    "PartedTable",
    "TaskChoice",
    "calibrate",
    "calibration_error",
    "find_images",
    "fit_linear_choice",
    "fit_temperature",
    "predict_missing",
    "target_agnostic_accuracy",
    "transforms_for",
]
