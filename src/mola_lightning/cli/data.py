"""``mola-data``: what data sets there are, what is in them, whether their files are sound, and where to get them."""

import argparse
import csv
import difflib
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mola_lightning.cli.data_report import (
    absent_classes,
    files_state,
    load_splits,
    made_here,
    regime_name,
    size_table,
    some_images,
)
from mola_lightning.cli.errors import command, explain
from mola_lightning.core import ConfigError, DataError
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write
from mola_lightning.data import MultiTaskDataModule, Source

SHOWN = 20  # bad files on screen
WIDE = 200  # characters; rich would cut tables where output goes to a file or a pipe
PATHS = ("root", "cache_root")  # options that are taken as they are typed, blanks and brackets included
USAGE = """\
examples:
  mola-data list
  mola-data describe digits
  mola-data verify vlcs root=photos/VLCS
  mola-data download medmnist root=medmnist subset=[octmnist,bloodmnist]
  mola-data --config-dir my_conf describe my_photos output=photos.png
"""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``mola-data``; exits with 0, 1 after an error or for unsound files, 2 on wrong usage."""
    # Options and overrides may come in any order, which argparse's own subcommands do not allow.
    anywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    anywhere.add_argument("--config-dir", help="a folder of your own configs, in which data/<name>.yaml is looked for")
    config_dir, rest = anywhere.parse_known_args(argv)
    parser = _parser(anywhere)
    arguments = parser.parse_args(rest, config_dir)
    if "function" not in arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    # No markup: paths and class names may look like it.
    width = None if sys.stdout.isatty() else WIDE
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    sys.exit(0 if arguments.function(arguments, console) else 1)


def _parser(anywhere: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mola-data",
        description=(__doc__ or "").replace("``", ""),
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[anywhere],
    )
    commands = parser.add_subparsers(metavar="list | describe | verify | download")
    listed = commands.add_parser("list", help="all data sets")
    listed.set_defaults(function=list_data)
    for name, function, text in (
        ("describe", describe, "sizes of tasks and splits, and a picture (output=FILE.png, or figure=false for none)"),
        ("verify", verify, "read every file as training will, and name those that are broken (output=FILE.csv)"),
        ("download", download, "fetch the files, or say what to fetch and where to put it"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("name", help="of the data set: an option of the config group data")
        sub.add_argument("overrides", nargs="*", help="root=..., any other option of the source, or a config key")
        sub.set_defaults(function=function)
    return parser


# -------------------------------------------------------------------------------------------------------- from a name


def options(config_dir: str | None) -> dict[str, str]:
    """Name of a data set -> the comment that its config begins with; ours go before yours of the same name."""
    folders = [Path(str(files("mola_lightning.conf"))) / "data"]
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir: there is no folder {config_dir}")
        folders.append(Path(config_dir) / "data")
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            found.setdefault(path.stem, first.removeprefix("#").strip() if first.startswith("#") else "")
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
        cfg = compose("train", first)
        if "source" not in cfg.data or "_target_" not in cfg.data:
            raise ConfigError(
                f"data={name} must be a call of mola_lightning.data.MultiTaskDataModule with a source, as "
                f"conf/data/digits.yaml is; found the keys {', '.join(map(str, cfg.data)) or 'none'}"
            )
        given = [_longer(override, cfg.data.source, name) for override in overrides]
        return compose("train", [*first, *given]) if given else cfg


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
    if plain in PATHS and value and value != "null" and value[0] not in "'\"$":
        value = "'" + value.replace("'", "\\'") + "'"
    return f"{key.removesuffix(plain)}data.source.{plain}={value}"


def build(arguments: argparse.Namespace, *own: str) -> tuple[MultiTaskDataModule, dict[str, str]]:
    """The data module of the command's data set, and the options among ``own``, which are the command's."""
    pairs = [(override, *override.partition("=")[::2]) for override in arguments.overrides]
    mine = {key: value for _, key, value in pairs if key in own}
    cfg = composed(arguments.name, [o for o, key, _ in pairs if key not in own], arguments.config_dir)
    if arguments.function is verify and "cache" in cfg.data.source:
        cfg.data.source.cache = None  # the files themselves are looked at
    data: Any = instantiate(cfg.data, _convert_="all")
    if not isinstance(data, MultiTaskDataModule):
        raise ConfigError(f"data={arguments.name} must make a MultiTaskDataModule, got {type(data).__name__}")
    return data, mine


# ----------------------------------------------------------------------------------------------------------- commands


def list_data(arguments: argparse.Namespace, console: Console) -> bool:
    """A row a data set."""
    table = Table("data=", "regime", "tasks", "files", "what it is")
    for name, what in options(arguments.config_dir).items():
        try:
            source = instantiate(composed(name, [], arguments.config_dir).data, _convert_="all").source
            tasks = [task.name for task in source.tasks]
            shown = f"{len(tasks)}: {', '.join(tasks[:4])}{' ...' if len(tasks) > 4 else ''}"
            table.add_row(name, regime_name(source), shown, files_state(source), what)
        except Exception as error:  # one config that is wrong, or a package that is missing, hides no others
            message = explain(error)
            if message is None:
                raise
            table.add_row(name, "–", "–", "–", f"{what} ({message})".lstrip())
    console.print(table)
    return True


def describe(arguments: argparse.Namespace, console: Console) -> bool:
    """Sizes, classes and a contact sheet."""
    data, mine = build(arguments, "output", "figure")
    wanted = mine.get("figure", "true").lower()
    one_of("figure", wanted, ("true", "false"))
    data.prepare_data()
    datasets = load_splits(data)
    console.print(size_table(f"{arguments.name}: rows with a target", datasets))
    console.print(f"regime: {data.regime.value}; images as the model sees them (C, H, W): {data.image_shape}")
    if cut := data.source.record().get("cut"):
        parts = ", ".join(f"{split} {part:.0%}" for split, part in cut["fractions"].items())
        which = "all" if "test" in cut["fractions"] else "the training"
        console.print(f"cut from {which} images: {parts} (seed {cut['seed']})")
    if wanted == "true":
        picture = some_images(datasets["train"], data.image_shape)
        if picture is None:
            console.print(f"no picture: images of {data.image_shape[0]} channels cannot be shown")
            return True
        place = Path(mine.get("output") or f"{arguments.name}.png")
        with atomic_write(place, "wb") as file:
            picture.save(file, format="PNG")
        console.print(f"training images, some of each task: {place}", soft_wrap=True)
    return True


def verify(arguments: argparse.Namespace, console: Console) -> bool:
    """Read every file; whether all are sound."""
    data, mine = build(arguments, "output")
    count = data.source.num_files()
    bad = _bad_files(data.source, count, f"reading {arguments.name}")
    if not count:
        data.prepare_data()
    _show_bad(bad, mine.get("output"), console)
    try:
        datasets = load_splits(data)
    except DataError:
        if not bad:
            raise
    else:  # broken files may leave nothing to count
        console.print(size_table(f"{arguments.name}: rows with a target", datasets))
        for sentence in absent_classes(datasets):
            console.print(sentence, soft_wrap=True)
    if count:
        console.print(f"{count:,} files, {f'{len(bad):,} of them not sound' if bad else 'all sound'}")
    elif made_here(data.source):
        console.print(f"{arguments.name} is made here, not read from files: its cache is sound")
    else:
        console.print(f"{arguments.name} could be loaded; its source has no way to look at single files")
    return not bad


def _bad_files(source: Source, count: int, what: str) -> list[tuple[str, str]]:
    """(file, problem) of those that are not sound; a terminal shows how far the reading is."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        looked_at = progress.track(source.verify(), count, description=what)
        return [(file, problem) for file, problem in looked_at if problem]


def _show_bad(bad: Sequence[tuple[str, str]], output: str | None, console: Console) -> None:
    """The first on screen, and all in a table where one was asked for; it is written when it is empty, too."""
    for file, problem in bad[:SHOWN]:
        console.print(f"{file}: {problem}", soft_wrap=True)
    if len(bad) > SHOWN:
        rest = f"all are in {output}" if output else "output=bad.csv writes all to a file"
        console.print(f"... and {len(bad) - SHOWN:,} more; {rest}", soft_wrap=True)
    if output:
        with atomic_write(output) as table:
            csv.writer(table, lineterminator="\n").writerows([("file", "problem"), *bad])


def download(arguments: argparse.Namespace, console: Console) -> bool:
    """Fetch the files."""
    data, _ = build(arguments)
    if made_here(data.source) and type(data.source).download is Source.download:
        console.print(f"{arguments.name} is made here from installed packages: there is nothing to fetch")
        return True
    data.source.download()
    console.print(f"{arguments.name} is complete in {getattr(data.source, 'root', '')}", soft_wrap=True)
    return True


if __name__ == "__main__":
    main()
