"""A whole model in a folder: its description, its weights, and a card; the layout of the Hugging Face Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mola_lightning.core import RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.deployment.artefact import MANIFEST, README, begin_artefact, finish_artefact, read_artefact
from mola_lightning.deployment.cards import model_card
from mola_lightning.deployment.deployable import Deployable
from mola_lightning.deployment.experts import read_tensors, write_tensors
from mola_lightning.deployment.specification import build, specify
from mola_lightning.training import MultiTaskModule
from mola_lightning.training.summary import versions

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PARTS = ("architecture.", "heads.")  # of a module's state: the rest is of its training


def save_model(deployable: Deployable, folder: Path | str) -> dict[str, Any]:
    """Write ``config.json``, ``model.safetensors``, ``README.md`` and the manifest; the manifest.

    The model is read back and compared before the manifest is written.

    Raises:
        ConfigError: for a model that plain values cannot describe, see :func:`specify`; or one that answers otherwise
            when it is read back.
    """
    folder = Path(folder)
    facts = {name: value for name, value in deployable.facts.items() if name != "metrics"}
    config = {"spec": specify(deployable), "facts": facts}
    begin_artefact(folder)
    with atomic_write(folder / CONFIG) as file:
        json.dump(config, file, indent=1, ensure_ascii=False)
    write_tensors(folder / WEIGHTS, weights_of(deployable.module), {"kind": "model"})
    with atomic_write(folder / README) as file:
        file.write(model_card(config))
    spec, again = config["spec"], _read(folder)
    difference = deployable.check_answers(again.answers, again.module.names, folder / WEIGHTS)
    manifest = {
        "format": "model",
        "method": spec["method"],
        "license": None,
        **facts,
        "tasks": {each["name"]: {"file": WEIGHTS, **each, "max_difference": difference} for each in spec["tasks"]},
        "versions": versions(),
    }
    return finish_artefact(folder, manifest, [CONFIG, WEIGHTS, README])


def load_model(folder: Path | str) -> Deployable:
    """The model of a folder that :func:`save_model`, ``mola-compose`` or the Hub gave, after a look at its checksums.

    Raises:
        RunFolderError: when a file is missing, damaged or altered, or the weights do not fit the description.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / MANIFEST).is_file():
        raise RunFolderError(f"{folder} holds no model: it needs {CONFIG}, {WEIGHTS} and {MANIFEST} of format=model")
    manifest = read_artefact(folder)
    if manifest["format"] != "model" or not {CONFIG, WEIGHTS} <= set(manifest["files"]):
        raise RunFolderError(
            f"{folder} holds no model: its {MANIFEST} is of format={manifest['format']} and lists "
            f"{', '.join(manifest['files'])}; give a folder of format=model, which lists {CONFIG} and {WEIGHTS}"
        )
    return _read(folder)


def _read(folder: Path) -> Deployable:
    """The model, whose checksums the caller looked at."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        deployable = build(config["spec"])
        deployable.facts |= config["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder / CONFIG} is damaged, or none of ours ({error}); export again") from error
    load_weights(deployable.module, read_tensors(folder / WEIGHTS)[1], folder / WEIGHTS)
    return deployable


def weights_of(module: MultiTaskModule) -> dict[str, Tensor]:
    """Architecture and heads of a module's state."""
    return {name: tensor for name, tensor in module.state_dict().items() if name.startswith(PARTS)}


def load_weights(module: MultiTaskModule, state: Mapping[str, Tensor], where: object) -> None:
    """Load architecture and heads, strictly.

    Raises:
        RunFolderError: when names or shapes differ.
    """
    wanted = weights_of(module)
    differ = sorted(set(wanted) ^ set(state))
    differ += [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    if differ:
        raise RunFolderError(
            f"the weights of {where} do not fit the model that is described: {', '.join(differ[:5])}"
            f"{' ...' if len(differ) > 5 else ''}; export again"
        )
    module.load_state_dict({**module.state_dict(), **state})
