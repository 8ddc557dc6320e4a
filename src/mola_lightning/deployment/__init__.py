"""Trained models outside this package: plain networks, graphs, separate experts, and folders to share."""

from mola_lightning.deployment.artefact import read_artefact
from mola_lightning.deployment.compose import compose
from mola_lightning.deployment.deployable import Deployable, Preprocessing
from mola_lightning.deployment.export import FORMATS, Exported, export
from mola_lightning.deployment.load import load
from mola_lightning.deployment.model_folder import load_model, save_model
from mola_lightning.deployment.program import load_program

__all__ = [
    "FORMATS",
    "Deployable",
    "Exported",
    "Preprocessing",
    "compose",
    "export",
    "load",
    "load_model",
    "load_program",
    "read_artefact",
    "save_model",
]
