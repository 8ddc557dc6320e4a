"""Every job of every sweep composes, under a name that tells its method from the others."""

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import mola_lightning.cli.naming  # noqa: F401 - the resolvers that name a run
from mola_lightning.cli.search.space import Space

CONF = Path(__file__).parents[2] / "conf"
FILES = {str(path.relative_to(CONF / "sweep").with_suffix("")): path for path in (CONF / "sweep").rglob("*.yaml")}
SEARCHES = sorted(name for name, path in FILES.items() if "/hydra/sweeper: mola_optuna" in path.read_text())
SWEEPS = sorted(set(FILES) - set(SEARCHES))
OPTIONS = {path.stem for path in (CONF / "balancer").glob("*.yaml")}


def composed(*overrides: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def grid(sweep: str) -> dict[str, list[str]]:
    """Key -> values of a sweep."""
    params = composed(f"sweep={sweep}").hydra.sweeper.params
    return {key: [value.strip() for value in str(values).split(",")] for key, values in params.items()}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_jobs_compose_under_names_of_their_own(sweep: str) -> None:
    """Seeds only change the seed: one of them stands for all."""
    axes = grid(sweep) | {"seed": ["7"]}
    assert all(len(set(values)) == len(values) for values in axes.values())
    folders = []
    for values in product(*axes.values()):
        job = composed(
            f"sweep={sweep}", "paths.run=here", *(f"{key}={value}" for key, value in zip(axes, values, strict=True))
        )
        plain = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
        OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
        assert (job.seed, job.num_threads, str(job.hydra.mode)) == (7, 1, "RunMode.MULTIRUN")
        folders.append(job.hydra.sweep.subdir)
    assert len(set(folders)) == len(folders)
    methods = Counter(folder.partition("_seed7_")[0] for folder in folders)
    assert set(methods.values()) == {1}, methods


@pytest.mark.parametrize("search", SEARCHES)
def test_points_of_a_search_compose(search: str) -> None:
    """At both ends and in the middle, without test and figures, under names of their own, in a folder that is fixed."""
    sweeper = composed(f"sweep={search}").hydra.sweeper
    given = [*sweeper.overrides, *(f"{key}={value}" for key, value in sweeper.params.items())]
    space = Space(OverridesParser.create().parse_overrides(given))
    folders = set()
    for share in (0.0, 0.5, 0.999):
        point = space.overrides(space.at([share] * len(space.axes)))
        job = composed(f"sweep={search}", "paths.runs=here", "paths.run=here", *space.fixed, *point)
        assert (job.test, job.figures, job.num_threads) == (False, False, 1)
        assert job.seed >= 100, "a seed of no reported table"
        assert job.hydra.sweep.dir == f"here/{search.replace('/', '_')}"
        folders.add(job.hydra.sweep.subdir)
    assert len(folders) == 3


def test_the_sweep_over_architectures_misses_none() -> None:
    methods = {name.partition("/")[2] for name in grid("digits/architectures")["experiment"]}
    options = {path.stem for path in (CONF / "architecture").glob("*.yaml")}
    assert methods == options - {"mola"} | {"mola_router"}


def test_the_sweep_over_balancers_misses_none() -> None:
    """Those of features need images with several targets; ``ls`` is another name of ``equal``."""
    assert set(grid("digits/balancers")["balancer"]) == {o for o in OPTIONS if not o.endswith("_ub")} - {"ls"}
    assert set(grid("digits/balancers_mola")["balancer"]) <= set(grid("digits/balancers")["balancer"])


@pytest.mark.parametrize("name", ["architectures", "balancers", "balancers_mola"])
def test_a_relaunch_finds_the_folder(name: str) -> None:
    assert composed(f"sweep=digits/{name}", "paths.runs=here").hydra.sweep.dir == f"here/digits_{name}"
