"""Using trained models: predictions of image files, calibrated probabilities, answers without a task id; and taking
them elsewhere: plain networks, graphs, separate experts, folders to share.
"""

from mola_lightning.deployment.agnostic import target_agnostic_accuracy
from mola_lightning.deployment.answers import Answers
from mola_lightning.deployment.artefact import read_artefact
from mola_lightning.deployment.calibration import calibrate, calibration_error, fit_temperature
from mola_lightning.deployment.choices import CHOICES, LeastEntropy, LinearChoice, TaskChoice
from mola_lightning.deployment.compose import compose
from mola_lightning.deployment.deployable import Deployable, Preprocessing
from mola_lightning.deployment.export import FORMATS, Exported, export
from mola_lightning.deployment.inputs import ImageFiles, find_images, transforms_for
from mola_lightning.deployment.load import load
from mola_lightning.deployment.mapping import fit_linear_choice
from mola_lightning.deployment.model_folder import load_model, save_model
from mola_lightning.deployment.parts import PartedTable
from mola_lightning.deployment.predict import predict_missing

__all__ = [
    "Answers",
    "CHOICES",
    "Deployable",
    "Exported",
    "FORMATS",
    "ImageFiles",
    "LeastEntropy",
    "LinearChoice",
    "PartedTable",
    "Preprocessing",
    "TaskChoice",
    "calibrate",
    "calibration_error",
    "compose",
    "export",
    "find_images",
    "fit_linear_choice",
    "fit_temperature",
    "load",
    "load_model",
    "predict_missing",
    "read_artefact",
    "save_model",
    "target_agnostic_accuracy",
    "transforms_for",
]
