"""``mola-data``: what data sets there are, what is in them, whether their files are sound, and where to get them."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mola_lightning.cli.errors import explain, setup_logging, show_error
from mola_lightning.core import ConfigError, DataError, MolaError
from mola_lightning.core.files import atomic_write
from mola_lightning.data import SPLITS, DenseDataset, MultiTaskDataModule
from mola_lightning.data.contact_sheet import draw_contact_sheet, draw_dense_sheet

SHOWN = 20  # bad files on screen
USAGE = """\
examples:
  mola-data list
  mola-data describe digits
  mola-data verify vlcs root=photos/VLCS
  mola-data download medmnist root=medmnist subset=[octmnist,bloodmnist]
  mola-data --config-dir my_conf describe my_photos output=photos.png
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``mola-data``; exits with 0, 1 after an error or for unsound files, 2 on wrong usage."""
    setup_logging()
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        sound = arguments.function(arguments, console)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        show_error(message)
        sys.exit(1)
    sys.exit(0 if sound else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mola-data", description=__doc__, epilog=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-dir", help="a folder of your own configs, in which data/<name>.yaml is looked for too"
    )
    commands = parser.add_subparsers(required=True, metavar="list | describe | verify | download")
    listed = commands.add_parser("list", help="all data sets")
    listed.set_defaults(function=list_data)
    for name, function, text in (
        ("describe", describe, "sizes of tasks and splits, and a picture of the first images (output=FILE.png)"),
        ("verify", verify, "read every file as training will, and name those that are broken (output=FILE.csv)"),
        ("download", download, "fetch the files, or say what to fetch and where to put it"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", help="of the data set: an option of the config group data")
        command.add_argument("overrides", nargs="*", help="root=..., any other option of the source, or a config key")
        command.set_defaults(function=function)
    return parser


# -------------------------------------------------------------------------------------------------------- from a name


def options(config_dir: str | None) -> dict[str, str]:
    """Name of a data set -> the comment that its config begins with."""
    folders = [Path(str(files("mola_lightning.conf"))) / "data"]
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir: there is no folder {config_dir}")
        folders.append(Path(config_dir) / "data")
    found = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            found[path.stem] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def composed(name: str, overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    """The config with the data set ``name``; keys without a dot are options of its source where it has them."""
    known = options(config_dir)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(
            f"there is no data set {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}. mola-data list says more.")
        )
    path = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir is not None else []
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        first = [f"data={name}", "paths.run=unset", *path]
        source = compose("train", first).data.source
        given = [_longer(override, source, name) for override in overrides]
        return compose("train", [*first, *given])


def _longer(override: str, source: DictConfig, name: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"expected key=value after the name of the data set, got {override!r}")
    plain = key.lstrip("+~")
    if "." in plain or plain in ("transform", "data"):
        return override
    if plain not in source:
        own = [str(known) for known in source if not str(known).startswith("_")]
        raise ConfigError(f"the data set {name!r} has no option {plain!r}; it has {', '.join(own)}")
    return f"data.source.{key}={value}"


def build(arguments: argparse.Namespace, *own: str) -> tuple[MultiTaskDataModule, dict[str, str]]:
    """The data module of the command's data set, and the options among ``own``, which are the command's."""
    mine = {o.partition("=")[0]: o.partition("=")[2] for o in arguments.overrides if o.partition("=")[0] in own}
    rest = [o for o in arguments.overrides if o.partition("=")[0] not in own]
    data: Any = instantiate(composed(arguments.name, rest, arguments.config_dir).data, _convert_="all")
    if not isinstance(data, MultiTaskDataModule):
        raise ConfigError(f"data={arguments.name} must make a MultiTaskDataModule, got {type(data).__name__}")
    return data, mine


# ----------------------------------------------------------------------------------------------------------- commands


def list_data(arguments: argparse.Namespace, console: Console) -> bool:
    """A row a data set."""
    table = Table("data=", "regime", "tasks", "files", "what it is")
    for name, what in options(arguments.config_dir).items():
        try:
            cfg = composed(name, [], arguments.config_dir)
            source = instantiate(cfg.data, _convert_="all").source
            root = getattr(source, "root", None)
            there = (
                "made here" if not source.expects else ("there" if root and Path(root).is_dir() else f"not in {root}")
            )
            tasks = [task.name for task in source.tasks]
            shown = f"{len(tasks)}: {', '.join(tasks[:4])}{' ...' if len(tasks) > 4 else ''}"
            table.add_row(name, _regime(source), shown, there, what)
        except (MolaError, HydraException) as error:
            table.add_row(name, "–", "–", "–", f"{what} ({explain(error)})")
    console.print(table)
    return True


def _regime(source: Any) -> str:
    try:
        return str(source.regime.value)
    except DataError:
        return "–"  # to know it, its files would have to be there


def describe(arguments: argparse.Namespace, console: Console) -> bool:
    """Sizes, classes and a contact sheet."""
    data, mine = build(arguments, "output", "figure")
    data.prepare_data()
    splits = [split for split in SPLITS if _has(data, split)]
    table = Table("task", "outputs", "metric", *splits, title=f"{arguments.name}: rows with a target")
    sizes = {split: data.dataset(split).task_sizes() for split in splits}
    for task in data.tasks:
        table.add_row(task.name, _outputs(task), task.monitor, *(f"{sizes[split][task.name]:,}" for split in splits))
    console.print(table)
    console.print(f"regime: {data.regime.value}; images as the model sees them (C, H, W): {data.image_shape}")
    if cut := data.source.record().get("cut"):
        parts = ", ".join(f"{split} {part:.0%}" for split, part in cut["fractions"].items())
        console.print(f"cut from the published training images: {parts} (seed {cut['seed']})")
    if mine.get("figure", "true").lower() != "false":
        place = Path(mine.get("output") or f"{arguments.name}.png")
        dataset = data.dataset("train")
        scale = max(1, 96 // data.image_shape[1])
        sheet = draw_dense_sheet if isinstance(dataset, DenseDataset) else draw_contact_sheet
        picture = sheet(dataset, 8, scale)
        with atomic_write(place, "wb") as file:
            picture.save(file, format="PNG")
        console.print(f"first training images: {place}", soft_wrap=True)
    return True


def _has(data: MultiTaskDataModule, split: Any) -> bool:
    try:
        data.dataset(split)
    except DataError as error:
        if f"no {split} split" not in str(error):
            raise
        return False
    return True


def _outputs(task: Any) -> str:
    names = ", ".join(task.class_names[:6])
    return f"{task.num_outputs}{f' ({names}{chr(8230) if len(task.class_names) > 6 else str()})' if names else ''}"


def verify(arguments: argparse.Namespace, console: Console) -> bool:
    """Read every file; whether all are sound."""
    data, mine = build(arguments, "output")
    count, bad = data.source.num_files(), []
    if count == 0:
        data.prepare_data()
        data.setup()
        console.print(f"{arguments.name} is made here, not read from files: its cache is sound")
        return True
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        for file, problem in progress.track(data.source.verify(), count, description=f"reading {arguments.name}"):
            if problem:
                bad.append((file, problem))
    if "output" in mine:
        with atomic_write(Path(mine["output"])) as table:
            table.writelines(f'"{line[0]}","{line[1]}"\n' for line in [("file", "problem"), *bad])
    for file, problem in bad[:SHOWN]:
        console.print(f"{file}: {problem}", soft_wrap=True, markup=False)
    if len(bad) > SHOWN:
        rest = f"all are in {mine['output']}" if "output" in mine else "output=bad.csv writes all to a file"
        console.print(f"... and {len(bad) - SHOWN} more; {rest}")
    console.print(f"{count:,} files, {len(bad):,} of them not sound")
    return not bad


def download(arguments: argparse.Namespace, console: Console) -> bool:
    """Fetch the files."""
    data, _ = build(arguments)
    data.source.download()
    console.print(f"{arguments.name} is complete in {getattr(data.source, 'root', '')}", soft_wrap=True)
    return True


if __name__ == "__main__":
    main()
