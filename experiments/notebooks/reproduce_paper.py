# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper's benchmarks
#
# **Which of the paper's experiments have been run here, and what did they give?**
#
# For each benchmark: the settings, composed from the configs that `mola-train experiment=paper/...` uses; the runs
# that are finished, and the command that trains those that are missing; the table, rebuilt from the runs. Seconds, as
# nothing is trained here. In a fresh checkout there are no runs, and no table: the data sets are not ours to ship
# ([docs/data.md](../../docs/data.md)), and their sizes ask for a GPU.
#
# **What is not reproduced.** No score of the paper is quoted or claimed: nothing was run here at full size. The epoch
# is chosen on validation images, where the released code chooses on the test split, so its numbers are not directly
# comparable; every other deviation stands in [docs/paper.md](../../docs/paper.md). The paper's further baselines have
# no experiment files: take those of `hps` with another `architecture=` or `balancer=`, as `single_task` is taken
# below. For NYUv2 no command of the authors is published.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from IPython.display import Image, Markdown, display
from omegaconf import OmegaConf

import mola_lightning
from mola_lightning.analysis import Run, comparison, comparison_bars, load_runs, save, scores, to_markdown
from mola_lightning.core import RunFolderError

# %% [markdown]
# What you may change.

# %% tags=["parameters"]
RUNS = Path(mola_lightning.__file__).parents[2] / "runs"  # where runs are looked for, at any depth
SEEDS = (0, 1, 2)
ONLY_PAPER_SETTINGS = True  # False: runs that depart from them come into the tables too

# %% [markdown]
# ## The settings

# %%
BENCHMARKS = ("vlcs", "office_home", "medmnist", "radimagenet", "nyuv2")
METHODS = {  # the method's name -> what chooses it
    "single_task": "experiment=paper/{}_hps architecture=single_task",
    "hps": "experiment=paper/{}_hps",
    "mola_grad": "experiment=paper/{}_mola_grad",
    "mola_router": "experiment=paper/{}_mola_router",
}

GlobalHydra.instance().clear()
with initialize_config_module("mola_lightning.conf", version_base="1.3"):
    configs = {
        (benchmark, method): compose("train", [*words.format(benchmark).split(), "paths.run=unset"])
        for benchmark in BENCHMARKS
        for method, words in METHODS.items()
    }


def settings(cfg) -> dict[str, object]:
    return {
        "backbone": cfg.backbone.get("name", cfg.backbone["_target_"].rpartition(".")[2]),
        "optimiser": cfg.optimizer["_target_"].rpartition(".")[2],
        "learning rate": cfg.optimizer.lr,
        "schedule": cfg.scheduler["_target_"].rpartition(".")[2],
        "epochs": cfg.trainer.max_epochs,
        "batch": cfg.data.batch_size,
        "rank": cfg.adapter.rank if "adapter" in cfg else None,
        "ranks of some layers": dict(cfg.adapter.rank_pattern or {}) if "adapter" in cfg else None,
        "alpha": cfg.adapter.alpha if "adapter" in cfg else None,
        "TwD weight": cfg.auxiliary.twd.weight if "twd" in (cfg.auxiliary or {}) else None,
    }


composed = pd.DataFrame({key: settings(cfg) for key, cfg in configs.items()}).T.astype(object)
display(composed.rename_axis(index=["benchmark", "method"]).fillna("–"))

# %% [markdown]
# They are those of the authors' released code: its optimiser, learning rate, schedule, epochs and batch of each
# benchmark.

# %%
RELEASED = {
    "vlcs": ("AdamW", 1e-4, "CosineAnnealingLR", 10, 32),
    "office_home": ("AdamW", 1e-4, "CosineAnnealingLR", 60, 32),
    "medmnist": ("SGD", 0.05, "CosineAnnealingLR", 100, 128),
    "radimagenet": ("SGD", 0.05, "CosineAnnealingLR", 100, 128),
    "nyuv2": ("Adam", 1e-4, "StepLR", 200, 2),
}
SMALLER = {("radimagenet", "mola_grad"): 64, ("radimagenet", "mola_router"): 16}  # batches, in its published commands
for (benchmark, method), found in composed.iterrows():
    *others, batch = RELEASED[benchmark]
    wanted = [*others, SMALLER.get((benchmark, method), batch)]
    assert list(found[["optimiser", "learning rate", "schedule", "epochs", "batch"]]) == wanted, (benchmark, method)

# %% [markdown]
# ## The runs
#
# A run counts when its stored config says what the composed one says, apart from its seed, from where it ran and from
# where its data lie. What departs is named.

# %%
COMPARED = (
    "adapter",
    "auxiliary",
    "backbone",
    "balancer",
    "head",
    "optimizer",
    "router",
    "sampler",
    "scheduler",
    "transform",
)


def flat(cfg) -> dict[str, str]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    kept = {group: plain.get(group) for group in COMPARED}
    kept |= {"batch_size": plain["data"]["batch_size"], "max_epochs": plain["trainer"]["max_epochs"]}
    kept |= {"source": {k: v for k, v in plain["data"]["source"].items() if k not in ("root", "cache", "cache_root")}}
    return {str(key): repr(value) for key, value in pd.json_normalize(kept).iloc[0].items()}


paper = {key: flat(cfg) for key, cfg in configs.items()}


def departures(run: Run, benchmark: str) -> list[str]:
    """Settings in which a run is not the paper's experiment."""
    own, wanted = flat(OmegaConf.load(run.folder / "config.yaml")), paper[benchmark, run.method]
    return sorted(key for key in own.keys() | wanted.keys() if own.get(key) != wanted.get(key))


try:
    found = [run for run in load_runs([RUNS]) if run.state == "done" and run.debug is None]
except RunFolderError:
    found = []  # none yet
runs: dict[str, list[Run]] = {benchmark: [] for benchmark in BENCHMARKS}
for run in found:
    benchmark = next((name for name in BENCHMARKS if name.replace("_", "") == run.data), None)
    if benchmark is None or run.method not in METHODS:
        continue
    other = departures(run, benchmark)
    if not other or not ONLY_PAPER_SETTINGS:
        runs[benchmark].append(run)
    if other:
        text = f"`{run.folder.name}` ({run.method} on {benchmark}) departs in {', '.join(other[:5])}"
        display(Markdown(text + (f" and {len(other) - 5} more settings" if len(other) > 5 else "")))

done = pd.DataFrame(
    {method: [sum(run.method == method for run in runs[name]) for name in BENCHMARKS] for method in METHODS},
    index=pd.Index(BENCHMARKS, name="finished runs"),
)
display(done)
assert int(done.to_numpy().sum()) == sum(map(len, runs.values()))

# %% [markdown]
# ## What is missing
#
# The data lie in `data/<benchmark>`, or below the folder that `MOLA_DATA` names. With a cluster see
# [docs/cluster.md](../../docs/cluster.md).

# %%
missing: dict[str, list[str]] = {}
for benchmark in BENCHMARKS:
    lines = []
    for method, words in METHODS.items():
        lacking = [
            str(seed) for seed in SEEDS if (method, seed) not in {(run.method, run.seed) for run in runs[benchmark]}
        ]
        if lacking:
            lines.append(
                f"mola-train -m {words.format(benchmark)} seed={','.join(lacking)} trainer=gpu data.num_workers=8 "
                f"hydra.sweep.dir=runs/paper_{benchmark}"
            )
    missing[benchmark] = lines
    text = "\n".join(["```sh", *lines, "```"]) if lines else "Nothing."
    display(Markdown(f"**{benchmark}**\n\n{text}"))
for benchmark, lines in missing.items():
    assert bool(lines) == any(
        (m, s) not in {(r.method, r.seed) for r in runs[benchmark]} for m in METHODS for s in SEEDS
    )

# %% [markdown]
# ## The tables
#
# Mean and standard deviation over seeds. Δm: mean relative change against `single_task`, per seed; it needs runs of
# it. `vs hps`: paired by seed, with a 95 % confidence interval and the p-value of a t test after Holm's correction.

# %%
tables: dict[str, pd.DataFrame] = {}
for benchmark in BENCHMARKS:
    if not runs[benchmark]:
        display(Markdown(f"**{benchmark}**: no finished run; the commands that train them stand above."))
        continue
    present = [method for method in METHODS if any(run.method == method for run in runs[benchmark])]
    comparable = "hps" in present and len(present) > 1 and scores(runs[benchmark]).attrs["headline"] is not None
    table = comparison(runs[benchmark], methods=present, baseline="hps" if comparable else None)
    tables[benchmark] = table
    display(Markdown(f"**{benchmark}**\n\n{to_markdown(table)}"))
    display(Image(save(comparison_bars(table), RUNS / "notebooks" / "reproduce_paper" / benchmark), retina=True))

# %% [markdown]
# Each number is that of the runs' summaries.

# %%
for benchmark, table in tables.items():
    for method in table.index:
        for task in table.attrs["tasks"]:
            own = [run.score(task, run.monitor(task)) for run in runs[benchmark] if run.method == method]
            assert np.isclose(table.loc[method, (task, "mean")], np.mean(own))
            assert table.loc[method, (task, "n")] == len(own)
assert set(tables) == {benchmark for benchmark in BENCHMARKS if runs[benchmark]}
