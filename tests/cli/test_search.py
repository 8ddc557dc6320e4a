"""A search proposes what lies in its space, and whatever kills it, ends with the trials of the undisturbed one."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.storages._rdb.storage import _VersionManager

from mola_lightning.cli.search.run import run_search
from mola_lightning.cli.search.space import Space
from mola_lightning.cli.search.study import Search, SearchSettings
from mola_lightning.cli.search.trial import trial_overrides, trial_pruning
from mola_lightning.core import ConfigError
from mola_lightning.training.callbacks import RunPruned, TrialPruning
from mola_lightning.training.callbacks.pruning import import_optuna, open_storage

SPACE = (
    "adapter.rank=choice(1,2,4)",
    "+layers=range(2,9,3)",
    "data.scale=range(0.1,0.5,0.1)",
    "head.width=tag(log,int(interval(1,64)))",
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "dropout=interval(0,0.5)",
    "name='a b',\"c\"",
    "seed=100",
)
SMALL = ("rank=choice(1,2,4,8,16)", "kind=a,b,c", "lr=range(1,4)", "seed=100")


@pytest.fixture(autouse=True, scope="module")
def _migrations_read_once() -> Iterator[None]:
    """For the newest version of the schema, each storage would import the scripts of all versions anew."""
    newest: list[str] = []

    def head_version(self: _VersionManager) -> str:
        if not newest:
            newest.append(read(self))
        return newest[0]

    read = _VersionManager.get_head_version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "get_head_version", head_version)
        yield


def space_of(*overrides: str) -> Space:
    return Space(OverridesParser.create().parse_overrides(list(overrides)))


def settings(**changes: Any) -> SearchSettings:
    plain = {
        "study_name": "s", "storage": None, "direction": "maximize", "n_trials": 6, "batch_size": 2, "sampler": "tpe",
        "seed": 0, "startup_trials": 2, "max_failure_rate": 1.0, "pruner": None, "pruner_startup_trials": 5,
        "pruner_warmup_epochs": 3,
    }  # fmt: skip
    return SearchSettings(**(plain | changes))


def value(job: Sequence[str], key: str) -> str:
    return next(override.partition("=")[2] for override in job if override.startswith(f"{key}="))


def objective(job: Sequence[str]) -> float:
    return -abs(float(value(job, "rank")) - 4) + 0.1 * "abc".index(value(job, "kind")) - float(value(job, "lr"))


class Launcher:
    """Runs ``objective`` and keeps the jobs of each launch.

    Args:
        objective: score of a job; what it raises is the failure of the job, and a BaseException ends the launcher.
    """

    def __init__(self, objective: Callable[[Sequence[str]], Any] = objective) -> None:
        self.objective = objective
        self.launched: list[list[list[str]]] = []

    def launch(self, jobs: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append(jobs)
        returns = []
        for job in jobs:
            found = JobReturn(overrides=job)
            try:
                found.return_value, found.status = self.objective(job), JobStatus.COMPLETED
            except Exception as error:  # noqa: BLE001 - as Hydra does
                found.return_value, found.status = error, JobStatus.FAILED
            returns.append(found)
        return returns


class Loader:
    """Gives each configuration a folder of its own."""

    def load_sweep_config(self, config: Any, overrides: list[str]) -> Any:
        return OmegaConf.create({"hydra": {"sweep": {"subdir": re.sub(r"\W+", "_", "_".join(overrides))}}})


def run(folder: Path, launcher: Any, space: Sequence[str] = SMALL, **changes: Any) -> Search:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    return run_search(settings(**changes), space_of(*space), config, Loader(), launcher)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- space


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_points_lie_in_the_space(sampler: str, tmp_path: Path) -> None:
    jobs = Launcher(lambda job: float(value(job, "dropout")))
    search = run(tmp_path, jobs, SPACE, sampler=sampler, n_trials=12, batch_size=4)
    points = [trial.params for trial in search.trials("complete")]
    assert len({str(point) for point in points}) == 12
    for point in points:
        assert point["adapter.rank"] in (1, 2, 4)
        assert point["+layers"] in (2, 5, 8)
        assert point["data.scale"] in [pytest.approx(scale) for scale in (0.1, 0.2, 0.3, 0.4)]
        assert point["head.width"] in range(1, 65)
        assert 1e-4 <= point["optimizer.lr"] <= 1e-1
        assert 0 <= point["dropout"] <= 0.5
        assert point["name"] in ("'a b'", '"c"')
    below = sum(point["optimizer.lr"] < 10**-2.5 for point in points)
    assert 2 <= below <= 10, "a logarithmic interval has its middle at the geometric mean"
    assert len({str(point["dropout"]) for point in points}) == 12
    assert {len(batch) for batch in jobs.launched} == {4}
    assert {value(job, "data.scale") for batch in jobs.launched for job in batch} <= {"0.1", "0.2", "0.3", "0.4"}
    assert all("seed=100" in job for batch in jobs.launched for job in batch)


def test_overrides_set_the_value() -> None:
    """As Hydra reads them."""
    space = space_of(*SPACE, "widths=choice([1,2],[3])", "flag=true,null", "lr=choice(1e-3,0.5)")
    parser = OverridesParser.create()
    for share in (0.0, 0.5, 0.999):
        point = space.at([share] * len(space.axes))
        parsed = {o.get_key_element(): o.value() for o in parser.parse_overrides(space.overrides(point))}
        assert parsed["adapter.rank"] == point["adapter.rank"]
        assert parsed["optimizer.lr"] == point["optimizer.lr"]
        assert parsed["name"] == ("a b" if share < 0.5 else "c")
        assert parsed["widths"] == ([1, 2] if share < 0.5 else [3])
        assert parsed["flag"] == (True if share < 0.5 else None)
        assert parsed["lr"] == (1e-3 if share < 0.5 else 0.5)


def test_the_command_line_stands_for_the_file() -> None:
    space = space_of("rank=choice(1,2)", "lr=interval(0,1)", "seed=0", "lr=0.5", "rank=choice(4,8)", "seed=3")
    assert space.fixed == ["lr=0.5", "seed=3"]
    assert space.texts == {"rank": "choice(4,8)"}
    assert space.size == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "needs hyper-parameters to vary.*choice"),
        (["lr=tag(log,interval(0,1))"], "lr: a logarithmic interval begins above 0, got 0"),
        (["lr=interval(2,1)"], "from a lower to a higher value, got 2.0 and 1.0"),
        (["lr=tag(log,choice(1,2))"], "suits interval and range"),
        (["lr=tag(log,range(2,10,2))"], "of step 1"),
        (["lr=tag(fast,choice(1,2))"], "the only tag .* 'log', got .'fast'"),
        (["lr=range(3,3)"], "lr has no value to choose from"),
    ],
)
def test_spaces_that_are_none(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(*overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "best"}, "sampler must be one of 'tpe'"),
        ({"direction": "up"}, "direction must be one of"),
        ({"pruner": "mean"}, "pruner must be one of None, 'median'"),
        ({"n_trials": 0}, "n_trials must be an integer >= 1"),
        ({"batch_size": 1.5}, "batch_size must be an integer >= 1"),
        ({"max_failure_rate": 2}, "max_failure_rate must be between 0 and 1"),
        ({"pruner_warmup_epochs": -1}, "pruner_warmup_epochs must be an integer >= 0"),
    ],
)
def test_settings_that_cannot_work(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**change)


# --------------------------------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "qmc"])
def test_a_finite_space_is_searched_once(sampler: str, tmp_path: Path) -> None:
    """A point is tried once only; so any sampler ends with all of them."""
    space = ("rank=choice(1,4)", "kind=a,b", "lr=range(0,3)")
    search = run(tmp_path, Launcher(), space, sampler=sampler, n_trials=100, batch_size=5)
    points = [tuple(trial.params.values()) for trial in search.trials("complete")]
    every = [(rank, kind, lr) for rank in (1, 4) for kind in "ab" for lr in (0, 1, 2)]
    assert sorted(points) == sorted(every)
    if sampler == "grid":
        assert points == every
    assert search.planned == 12
    assert search.best is not None
    assert search.best.params == {"rank": 4, "kind": "b", "lr": 0}


def test_tpe_learns(tmp_path: Path) -> None:
    """After the random trials, most are near the best value of a wide choice."""
    space = ("rank=interval(0,1000)", "kind=a", "lr=0")
    search = run(tmp_path, Launcher(), space, n_trials=20, startup_trials=8, batch_size=2)
    late = [trial.params["rank"] for trial in search.trials()[12:]]
    assert sum(rank < 300 for rank in late) > 5


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Search]:
    """Sampler -> the search with it that nothing ended."""
    return {}


class Killed(BaseException):
    """As SIGKILL: nothing of the search goes on."""


KILLS = ["launched", "told", "added", "between"]


def kill_at(point: str, monkeypatch: pytest.MonkeyPatch, launcher: Launcher) -> None:
    """End the search at a point of its second batch."""
    if point == "launched":
        launch = launcher.launch

        def launch_or_die(jobs: Any, index: int) -> Any:
            if launcher.launched:
                raise Killed
            return launch(jobs, index)

        launcher.launch = launch_or_die  # type: ignore[method-assign]
        return
    name, passes = {"told": ("tell", 3), "added": ("add", 3), "between": ("tell", 4)}[point]
    method, passed = getattr(Search, name), []

    def pass_or_die(*args: Any) -> None:
        method(*args)
        passed.append(1)
        if len(passed) == passes:
            raise Killed

    monkeypatch.setattr(Search, name, pass_or_die)


@pytest.mark.parametrize(
    ("sampler", "point"),
    [*(("tpe", point) for point in KILLS), ("random", "added"), ("grid", "launched"), ("qmc", "told")],
)
def test_a_killed_search_goes_on(sampler: str, point: str, tmp_path: Path, undisturbed: dict[str, Search]) -> None:
    if sampler not in undisturbed:
        undisturbed[sampler] = run(tmp_path / "whole", Launcher(), sampler=sampler)
    whole = undisturbed[sampler]
    first, second = Launcher(), Launcher()
    with pytest.MonkeyPatch.context() as patch:
        kill_at(point, patch, first)
        with pytest.raises(Killed):
            run(tmp_path / "killed", first, sampler=sampler)
    search = run(tmp_path / "killed", second, sampler=sampler)
    assert [trial.number for trial in search.trials("complete")] == list(range(6))
    assert [(t.params, t.value) for t in search.trials()] == [(t.params, t.value) for t in whole.trials()]
    ended = {"launched": 2, "told": 3, "added": 2, "between": 4}[point]
    assert sum(len(batch) for batch in second.launched) == 6 - ended

    third = Launcher()
    assert len(run(tmp_path / "killed", third, sampler=sampler).trials()) == 6
    assert third.launched == []
    more = run(tmp_path / "killed", third, sampler=sampler, n_trials=8)
    assert [trial.number for trial in more.trials("complete")] == list(range(8))
    assert len({str(trial.params) for trial in more.trials()}) == 8


def test_another_search_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Launcher())
    with pytest.raises(ConfigError, match="another search under the name 's' .sampler: tpe there, grid here"):
        run(tmp_path, Launcher(), sampler="grid")
    with pytest.raises(ConfigError, match=r"space: .*choice\(1,2,4,8,16\).* there"):
        run(tmp_path, Launcher(), ("rank=choice(1,2)", *SMALL[1:]))
    with pytest.raises(ConfigError, match="fixed"):
        run(tmp_path, Launcher(), (*SMALL[:-1], "seed=1"))
    run(tmp_path, Launcher(), (*SMALL, "paths.runs=elsewhere", "logger=wandb"))  # the same runs
    assert len(run(tmp_path, Launcher(), sampler="grid", study_name="other").trials()) == 6


def test_failed_and_pruned_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ends(job: Sequence[str]) -> Any:
        if "rank=1" in job:
            raise ValueError("no\nluck")
        if "rank=2" in job:
            raise RunPruned("pruned in epoch 2, val/score 0.1000")
        return float("nan") if "rank=8" in job else objective(job)

    space = ("rank=choice(1,2,4,8,16)", "kind=a", "lr=0", "sweep=digits/x", "test=false")
    search = run(tmp_path, Launcher(ends), space, sampler="grid", overrides=("test=false",))
    assert search.states() == {"complete": 2, "pruned": 1, "fail": 2}
    said = capsys.readouterr().err
    assert "5 of 5 trials: 2 complete, 1 pruned, 2 fail" in said
    assert "rank_1 failed: no luck" in said
    assert "rank_8 failed: the score is nan" in said
    assert "best: trial 2, val score 0.0000" in said
    assert "\n  mola-train kind=a lr=0 rank=4\n" in said
    assert "study.db" in said
    record = yaml.safe_load((tmp_path / "search.yaml").read_text())
    assert record["best"]["overrides"] == ["rank=4"]
    assert record["states"] == {"complete": 2, "pruned": 1, "fail": 2}
    assert [trial["state"] for trial in record["trials"]] == ["fail", "pruned", "complete", "fail", "complete"]
    assert record["trials"][0]["reason"] == "no luck"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "multirun.yaml", "search.yaml", "study.db"}


def test_too_many_failures_end_the_search(tmp_path: Path) -> None:
    def fails(job: Sequence[str]) -> float:
        raise ValueError("no luck")

    jobs = Launcher(fails)
    with pytest.raises(ConfigError, match=r"4 of 4 trials failed.*max_failure_rate=0.5 of n_trials=6.*no luck"):
        run(tmp_path, jobs, max_failure_rate=0.5)
    assert len(jobs.launched) == 2
    with pytest.raises(ConfigError, match=r"4 of 4 trials failed"):
        run(tmp_path, jobs, max_failure_rate=0.5)
    assert len(jobs.launched) == 2
    with pytest.raises(ConfigError, match="no trial of the search .* gave a score"):
        run(tmp_path / "all", Launcher(fails))


def test_a_composition_that_fails_adds_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise ConfigError("no such key")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "load_sweep_config", refuse)
        with pytest.raises(ConfigError, match="no such key"):
            run(tmp_path, Launcher())
    assert [trial.number for trial in run(tmp_path, Launcher()).trials("complete")] == list(range(6))


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'install it with: pip install "mola-lightning\[search\]"'):
        import_optuna()


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    for url in ("study.db", f"sqlite:///{tmp_path}/nowhere/study.db"):
        with pytest.raises(ConfigError, match="cannot open the storage .*study.db.*SQLAlchemy URL"):
            open_storage(url)


# -------------------------------------------------------------------------------------------------------------- pruning


@pytest.fixture
def study(tmp_path: Path) -> Search:
    """Three trials that ended at 0.9, reported for two epochs, and a running one."""
    from optuna.trial import TrialState, create_trial

    space = space_of("rank=choice(1,2,4,8,16)")
    search = Search(settings(pruner="median", pruner_startup_trials=3, pruner_warmup_epochs=1), space, tmp_path)
    for rank in (1, 2, 4):
        search.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE, value=0.9, params={"rank": rank}, distributions=space.distributions,
                intermediate_values={0: 0.9, 1: 0.9},
            )
        )  # fmt: skip
    search.add({"rank": 8}, "folder")
    return search


def trainer_at(epoch: int, score: float) -> Any:
    strategy = SimpleNamespace(broadcast=lambda found: found)
    return SimpleNamespace(
        state=SimpleNamespace(fn="fit"), sanity_checking=False, callback_metrics={"val/score": score},
        current_epoch=epoch, is_global_zero=True, strategy=strategy,
    )  # fmt: skip


def test_a_trial_below_the_median_is_pruned(study: Search, tmp_path: Path) -> None:
    note, none = tmp_path / "pruned.json", None
    pruning = TrialPruning(study.url, "s", 3, note)
    pruning.look_up_note()
    pruning.on_validation_end(trainer_at(0, 0.1), none)  # warming up
    pruning.on_validation_end(trainer_at(0, 0.1), none)  # again, after a resume
    with pytest.raises(RunPruned, match="pruned in epoch 2, val/score 0.2000"):
        pruning.on_validation_end(trainer_at(1, 0.2), none)
    assert study.trials()[3].intermediate_values == {0: 0.1, 1: 0.2}
    assert json.loads(note.read_text())["epoch"] == 1
    with pytest.raises(RunPruned, match="pruned in epoch 2"):
        pruning.look_up_note()
    TrialPruning(study.url, "s", 4, note).look_up_note()
    assert not note.exists()
    good = TrialPruning(study.url, "s", 3, note)
    good.on_validation_end(trainer_at(1, 0.95), none)
    assert not note.exists()


def test_a_job_knows_its_trial(study: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pruned.json"
    for override in OverridesParser.create().parse_overrides(trial_overrides(study.url, "it's a name", 3)):
        monkeypatch.setenv(override.key_or_group.rpartition(".")[2], str(override.value()))
    pruning = trial_pruning(tmp_path)
    assert pruning is not None
    assert pruning.trial == {"storage": study.url, "study": "it's a name", "trial": 3}
    monkeypatch.delenv("MOLA_SEARCH_TRIAL")
    note.write_text("{}")
    assert trial_pruning(tmp_path) is None
    assert not note.exists()
