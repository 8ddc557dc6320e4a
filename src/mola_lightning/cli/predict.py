"""``mola-predict run=<folder> input=<folder>``: what a trained model says of image files."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.loading import checkpoint_file, load_run
from mola_lightning.cli.machine import device_named
from mola_lightning.core import ConfigError, DataError
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.prediction.answers import Answers
from mola_lightning.prediction.calibration import load_temperatures
from mola_lightning.prediction.choice_store import file_digest, load_choice
from mola_lightning.prediction.choices import default_choice
from mola_lightning.prediction.inputs import ImageFiles, find_images, transforms_for
from mola_lightning.prediction.parts import PartedTable, check_output
from mola_lightning.prediction.predict import predict_missing

AUTO = "auto"
SHOWN = 10  # bad images that are listed on the screen


class Predicted(NamedTuple):
    """How many inputs there were, (image, reason) of those that could not be read, and how many inputs an earlier call
    had dealt with.
    """

    images: int
    bad: list[tuple[str, str]]
    before: int = 0


def predict(
    run: Path,
    input: str,
    output: Path,
    task: str = AUTO,
    choose_by: str | None = None,
    column: str = "image",
    top_k: int = 1,
    calibration: str = AUTO,
    checkpoint: str = "best",
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    overrides: Sequence[str] | None = None,
) -> Predicted:
    """Predict image files into a table; one that was killed goes on where it was.

    Args:
        run: the run folder.
        input: see :func:`find_images`, also for ``column``.
        output: the table, .csv or .parquet.
        task: whose head answers, or ``auto``.
        choose_by: how ``auto`` chooses, see :func:`load_choice`; None: :func:`default_choice`.
        column: of an input table, with the paths.
        top_k: classes to name.
        calibration: ``auto`` or ``none``.
        checkpoint: ``best``, ``last`` or a file.
        batch_size: images of a pass; None: of the run's evaluation.
        num_workers: None: the run's.
        device: where the model runs, ``cpu`` or ``cuda``.
        overwrite: whether the output of another prediction may be replaced, see :class:`PartedTable`.
        overrides: of the run's own config, ``key=value``.
    """
    check_output(output)
    positive_int("top_k", top_k)
    one_of("calibration", calibration, (AUTO, "none"))
    place = device_named(device, "device=")
    inputs = find_images(input, column)
    if output.exists() and Path(input).expanduser().exists():
        require(not output.samefile(Path(input).expanduser()), f"output={output} is what is read; choose another")
    require(task == AUTO or choose_by is None, f"choose_by={choose_by} is for task=auto; leave it out, or task={task}")
    loaded = load_run(run, checkpoint, overrides)
    module, data, weights = loaded.module.to(place).eval(), loaded.data, checkpoint_file(run, checkpoint)
    data_key = loaded.data_key()
    one_of("task", task, (AUTO, *module.names))
    classes = max(each.num_outputs for each in module.tasks if task in (AUTO, each.name))
    require(top_k <= max(classes, 1), f"top_k must lie in 1..{classes}, the number of classes, got {top_k}")
    named = None if task == AUTO else task
    transforms = transforms_for(data.source, named)
    by = (choose_by or default_choice(module)) if named is None else None
    choice = None if by is None else load_choice(module, by, run, weights, data, data_key)
    temperatures = load_temperatures(run, weights, data_key, overrides or ()) if calibration == AUTO else {}
    answers = Answers(module, named, choice, top_k, temperatures)
    key = {
        "checkpoint": file_digest(weights),
        "data": data_key,
        **inputs.key(),
        "task": task,
        "choose_by": by,
        "top_k": top_k,
        "temperatures": temperatures,
        "image_shape": transforms.image_shape,
    }
    table = PartedTable(output, ["image", *answers.columns], answers.numbers, key, len(inputs.paths), overwrite)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        before = len(inputs.paths) - sum(map(len, table.missing()))
        bar = progress.add_task("images", total=len(inputs.paths), completed=before)
        try:
            predict_missing(
                answers,
                ImageFiles(inputs, transforms),
                table,
                data.eval_batch_size if batch_size is None else batch_size,
                data.num_workers if num_workers is None else num_workers,
                lambda images: progress.advance(bar, images),
            )
        except KeyboardInterrupt as interruption:
            kept = len(inputs.paths) - sum(map(len, table.missing()))
            interruption.add_note(f"{kept} of {len(inputs.paths)} images are done and kept; the same command goes on")
            raise
    return Predicted(len(inputs.paths), table.finish(), before)


def _job(cfg: DictConfig) -> None:
    setup_logging()
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError(
            "which run? Give the folder that mola-train printed: mola-predict run=<folder> input=<folder>"
        )
    if cfg.input is None:
        raise ConfigError(
            "which images? Give a folder, a .csv file or a pattern: mola-predict run=<folder> input=<...>"
        )
    settings: dict[str, Any] = {str(key): cfg[key] for key in cfg if key not in ("run", "input", "output", "overrides")}
    found = predict(Path(cfg.run), str(cfg.input), Path(cfg.output), overrides=list(cfg.overrides), **settings)
    console = Console()
    if found.before:
        console.print(f"{found.before} of {found.images} images were dealt with before, by the same command")
    good = found.images - len(found.bad)
    console.print("1 image predicted" if good == 1 else f"{good} images predicted", soft_wrap=True)
    if found.bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r for _, r in found.bad).items())
        images = "1 image" if len(found.bad) == 1 else f"{len(found.bad)} images"
        console.print(f"{images} could not be read ({reasons}):", soft_wrap=True)
        for image, reason in found.bad[:SHOWN]:
            console.print(f"  {image}: {reason}", soft_wrap=True, markup=False, highlight=False)
        if len(found.bad) > SHOWN:
            console.print(f"  and {len(found.bad) - SHOWN} more, all in {cfg.output}.json", soft_wrap=True)
    console.print(f"written to {cfg.output}", soft_wrap=True, highlight=False)
    if not good:
        raise DataError(f"none of the images of {cfg.input} could be read; the table has no rows")


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="predict", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
