"""``mola-export run=<folder>``: a finished run's model for use elsewhere."""

import json
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.loading import load_run
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import one_of, require
from mola_lightning.core.run_files import SUMMARY
from mola_lightning.deployment import FORMATS, Deployable, Exported, export, load_model
from mola_lightning.deployment.artefact import MANIFEST
from mola_lightning.training.summary import git_state


def deployable_of(
    run: Path, checkpoint: str = "best", license: str | None = None, overrides: list[str] | None = None
) -> Deployable:
    """The model of a folder, with what is known of it.

    Args:
        run: a run folder, or a folder of ``format=model``.
        checkpoint: ``best``, ``last`` or a file, of a run.
        license: of the weights.
        overrides: of the run's own config, ``key=value``.

    Raises:
        ConfigError: for a checkpoint or overrides of a folder of ``format=model``, which has neither.
    """
    if (run / MANIFEST).is_file():
        require(
            checkpoint == "best" and not overrides,
            f"{run} is an exported model: it has one state and no config of a run, so leave checkpoint= and overrides= "
            "out, or give the run folder",
        )
        found = load_model(run)
        found.facts |= {"license": license} if license else {}
        return found
    loaded = load_run(run, checkpoint, overrides)
    path = run / SUMMARY
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # The metrics of a summary are those of the best checkpoint.
    tested = (summary.get("test") or summary.get("val") or {}) if checkpoint == "best" else {}
    facts = {
        "license": license,
        "run": {
            "folder": run.resolve().name,
            "checkpoint": checkpoint,
            "config_key": summary.get("config_key"),
            "overrides": list(overrides or []),
        },
        "seed": loaded.cfg.seed,
        "git": {"training": summary.get("git", {}), "export": git_state()},
        "metrics": {name: values for name, values in tested.items() if name != "mean"},
    }
    return Deployable.of_data(loaded.module, loaded.data, facts)


def exported_table(exported: Exported) -> Table:
    """Which file serves which task."""
    manifest = exported.manifest
    table = Table("task", "expert", "file", "KiB", "difference", title=f"{manifest['method']} as {manifest['format']}")
    for name, entry in manifest["tasks"].items():
        expert = "" if entry["expert"] is None else str(entry["expert"])
        difference = f"{entry['max_difference']:.1e}" if "max_difference" in entry else ""
        size = f"{manifest['files'][entry['file']]['bytes'] / 1024:,.0f}"
        table.add_row(name, expert, entry["file"], size, difference)
    return table


def _job(cfg: DictConfig) -> None:
    setup_logging()
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give the folder that mola-train printed: mola-export run=<folder>")
    one_of("format", cfg.format, FORMATS)  # before the data are read
    run = Path(cfg.run)
    output = run / "export" / cfg.format if cfg.output is None else Path(cfg.output)
    require(output.resolve() != run.resolve(), f"output={output} would take the place of what is read; choose another")
    deployable = deployable_of(run, cfg.checkpoint, cfg.license, list(cfg.overrides))
    exported = export(deployable, output, cfg.format, None if cfg.task is None else str(cfg.task))
    console = Console()
    console.print(exported_table(exported))
    for what, names in (("tasks kept", exported.kept), ("files removed", exported.removed)):
        if names:
            console.print(f"{what} of an earlier export there: {', '.join(names)}", soft_wrap=True)
    console.print(f"written to {output}; README.md there has the lines that load it", soft_wrap=True)


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="export", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
