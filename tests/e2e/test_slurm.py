"""The sbatch script, with stand-ins for SLURM's commands: signalled, it is requeued and goes on in its folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

SCRIPT = Path(__file__).parents[2] / "experiments/slurm/train.sbatch"
RUN = (
    "architecture=mola_grad", "data.source.num_train=20", "data.source.image_size=12", "data.batch_size=16",
    "backbone.widths=[4,4,8]", "trainer.max_epochs=14", "+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1",
    "callbacks.records.num_conflict_batches=0", "num_threads=1", "figures=false",
)  # fmt: skip
# Starts the tasks as srun does, hands signals on to them, and ends with the largest exit code.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
arguments = [a for a in sys.argv[1:] if not a.startswith("--kill")]
assert arguments[0] == "mola-train"
command = [sys.executable, "-m", "mola_lightning.cli.train", *arguments[1:]]
tasks = [subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
         for i in range(int(os.environ["SLURM_NTASKS"]))]
signal.signal(signal.SIGUSR2, lambda *_: [task.send_signal(signal.SIGUSR2) for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$REQUEUED"
"""


def submit(folder: Path, tasks: int, *overrides: str) -> subprocess.Popen[str]:
    """The script as a job of a number of tasks on one node."""
    shims = folder / "shims"
    shims.mkdir(exist_ok=True)
    for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (shims / name).write_text(content)
        (shims / name).chmod(0o755)
    variables = {
        "JOB_ID": "77", "JOB_NAME": "mola", "NTASKS": str(tasks), "NTASKS_PER_NODE": str(tasks), "NNODES": "1",
        "NODEID": "0", "NODELIST": "127.0.0.1", "JOB_NODELIST": "127.0.0.1", "STEP_ID": "0",
    }  # fmt: skip
    environment = {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in variables.items()},
        "PATH": f"{shims}:{os.environ['PATH']}",
        "RUNS": str(folder),
        "REQUEUED": str(folder / "requeued"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        ["bash", str(SCRIPT), *RUN, *overrides],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def epochs(run: Path) -> int:
    journal = run / "metrics.jsonl"
    return journal.read_text().count("val/score") if journal.exists() else 0


@pytest.mark.soak
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_job_near_its_end_is_requeued_and_goes_on(tasks: int, tmp_path: Path) -> None:
    several = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.deterministic=true", f"trainer.devices={tasks}")
    overrides, run = several if tasks > 1 else (), tmp_path / "slurm/77"
    job = submit(tmp_path, tasks, *overrides)
    end = time.monotonic() + 200
    while epochs(run) < 3:
        assert time.monotonic() < end
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.05)
    (srun,) = (int(p) for p in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split())
    os.kill(srun, signal.SIGUSR2)  # as SLURM does, to the tasks and not to the script
    _, said = job.communicate(timeout=200)
    assert job.returncode == 128 + signal.SIGUSR2, said
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    assert "Saved in" in said
    assert not (run / "summary.json").exists()

    again = submit(tmp_path, tasks, *overrides)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["epochs"], summary["resumes"]) == (14, 1)
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "val/score" in row] == list(range(14))


@pytest.mark.parametrize("name", ["slurm_cpu", "slurm_gpu", "slurm_gpus"])
def test_launchers_are_built(name: str, tmp_path: Path) -> None:
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        cfg: Any = compose("train", [f"hydra/launcher={name}"], return_hydra_config=True)
    launcher = instantiate(cfg.hydra.launcher, submitit_folder=str(tmp_path))
    assert type(launcher).__name__ == "SlurmLauncher"
