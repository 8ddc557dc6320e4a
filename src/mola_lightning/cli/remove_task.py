"""``mola-remove-task run=<folder> task=<name> output=<folder>``: a run without one of its tasks, not trained again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mola_lightning.adapters import is_adapter_parameter
from mola_lightning.architectures import HPS, HPSWide, MoLA
from mola_lightning.cli.build import build_data, build_module
from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.loading import checkpoint_file, load_config
from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import BEST, CHECKPOINTS, CONFIG
from mola_lightning.training.checkpoints import load_checkpoint
from mola_lightning.training.growing import OWN_TO_A_RUN, without_task


def remove_task(
    run: Path, task: str, output: Path, checkpoint: str = "best", overrides: Sequence[str] | None = None
) -> Path:
    """Write a run folder whose model lacks a task: its head, and under routing by task id its expert.

    The predictions of the other tasks stay what they are. The folder can be evaluated, analysed and used to predict.

    Args:
        run: the run folder.
        task: the one to remove.
        output: the new folder.
        checkpoint: ``best``, ``last`` or a file.
        overrides: of the run's own config, by which its data lose the task: ``data.source.domains=[...]``.

    Returns:
        The new checkpoint.

    Raises:
        ConfigError: when the data still have the task, or lack another one; for other architectures.
        RunFolderError: when ``output`` is there already.
    """
    if output.exists():
        raise RunFolderError(f"{output} is there already; choose another output folder")
    content = load_checkpoint(checkpoint_file(run, checkpoint))
    tasks = list(content["tasks"])
    cfg = load_config(run, overrides)
    data = build_data(cfg)
    names, wanted = [t.name for t in data.tasks], [name for name in tasks if name != task]
    if names != wanted:
        raise ConfigError(
            f"without {task!r} the run's data should have the tasks {', '.join(wanted)}, and they have "
            f"{', '.join(names)}. Say so, such as by "
            f"\"overrides=['data.source.domains=[{','.join(wanted)}]']\""
        )
    module = build_module(cfg, data)
    architecture: Any = module.architecture
    # HPSWide may be as wide as a rival, which has other parameters for fewer tasks.
    if not isinstance(architecture, MoLA | HPS) or isinstance(architecture, HPSWide):
        raise ConfigError(
            f"a task can be removed from MoLA and hard parameter sharing, and this is {architecture.method}"
        )
    mola = isinstance(architecture, MoLA)
    # Under routing by task id expert t is of task t. Else experts belong to no task, and all stay.
    state = without_task(content["state_dict"], tasks, task, mola and architecture.router.needs_task_ids)
    experts = next((len(value) for name, value in state.items() if is_adapter_parameter(name)), None)
    if mola and architecture.num_experts != experts:
        cfg.architecture.num_experts = experts
        module = build_module(cfg, data)
    own = {name: value for name, value in module.state_dict().items() if name.startswith(OWN_TO_A_RUN)}
    module.load_state_dict({**own, **state})
    with atomic_write(output / CONFIG) as file:
        file.write(OmegaConf.to_yaml(cfg, resolve=True))
    path = output / CHECKPOINTS / BEST
    with atomic_write(path, "wb") as file:
        torch.save({"tasks": wanted, "epoch": content["epoch"], "state_dict": module.state_dict()}, file)
    return path


def _job(cfg: DictConfig) -> None:
    setup_logging()
    missing = [key for key in ("run", "task", "output") if OmegaConf.is_missing(cfg, key) or cfg[key] is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}? mola-remove-task run=<folder> task=<name> output=<new folder>")
    path = remove_task(Path(cfg.run), cfg.task, Path(cfg.output), cfg.checkpoint, list(cfg.overrides))
    Console().print(f"written to {path}", soft_wrap=True, highlight=False)


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="remove_task", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
