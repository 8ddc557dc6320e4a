"""Time, peak memory and multiply-adds of a training step, side by side with the plain backbone's."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils import _pytree as pytree

from mola_lightning.adapters import PLAN_NAMES
from mola_lightning.benchmarks.arithmetic import MultiplyAdds
from mola_lightning.benchmarks.cases import Case
from mola_lightning.benchmarks.methods import METHODS, build_module
from mola_lightning.core import Batch, ConfigError, TaskRows
from mola_lightning.core.errors import one_of, positive_int
from mola_lightning.training import MultiTaskModule
from mola_lightning.training.fast import compile_networks, lay_out_channels_last

SLOW_ROUNDS = 3
WARM_UP = {"cpu": 0, "cuda": 3}  # steps beside the two that measure something: kernels are chosen and compiled in them
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SILENT = "99"  # above every level that the profiler's library knows


@dataclass(frozen=True)
class Speed:
    """How a step is run, besides by what plans.

    Args:
        bf16: forward passes in mixed precision.
        channels_last: convolutions laid out with channels last.
        compiled: backbone and router by ``torch.compile``.
        inference: the forward pass alone, in evaluation, instead of a training step.
    """

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    inference: bool = False

    def apply(self, module: MultiTaskModule) -> None:
        """Change a module's networks as asked."""
        if self.channels_last:
            lay_out_channels_last(module)
        if self.compiled:
            compile_networks(module)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """For the forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


class TimedStep:
    """A training step over one batch: gradients to None, forward, backward, the module's optimiser.

    Args:
        module: what is trained.
        batch: what it is trained on.
        device: where it runs.
        clock: ``wall``, or ``cpu`` for the processor time of this process.
        speed: precision, layout, compiler.
    """

    def __init__(
        self,
        module: MultiTaskModule,
        batch: Batch,
        device: torch.device,
        clock: str = "wall",
        speed: Speed = Speed(),
    ) -> None:
        self.module, self.device, self.clock, self.speed = module.to(device), device, CLOCKS[clock], speed
        speed.apply(module.train(not speed.inference))
        self.batch = batch.to(device)
        self.optimizer = module.configure_optimizers()["optimizer"]

    def __call__(self) -> None:
        """One step, its gradients released at the end."""
        if self.speed.inference:
            with self.speed.autocast(self.device), torch.inference_mode():
                self.module(self.batch.images, self.batch.rows)
            return
        with self.speed.autocast(self.device):
            loss = self.module.training_step(self.batch, 0)
        loss.backward()
        self.module.optimizer_step(0, 0, self.optimizer, None)  # some balancers run the network once more after it
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self) -> float:
        """The time of one step."""
        self._wait()
        start = self.clock()
        self()
        self._wait()
        return self.clock() - start

    def multiply_adds(self) -> int:
        """Counted during one step, forward and backward."""
        stance = "force_eager" if self.speed.compiled else "default"  # compiled code shows no operations
        with torch.compiler.set_stance(stance), MultiplyAdds() as counted:
            self()
        return counted.total

    def resident_bytes(self) -> int:
        """Bytes that outlive a step: parameters, buffers, other state of a checkpoint, optimiser state, batch."""
        kept = [*self.module.parameters(), *self.module.buffers(), self.batch.images]
        states = [dict(self.module.state_dict()), dict(self.optimizer.state)]
        kept += [leaf for leaf in pytree.tree_leaves(states) if isinstance(leaf, Tensor)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        return sum(storages.values())

    def peak_bytes(self) -> int:
        """Resident bytes plus the most that a step ever holds at a time beyond them."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self()
            return self.resident_bytes() + torch.cuda.max_memory_allocated(self.device) - before
        return self.resident_bytes() + peak_allocated(self)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_allocated(function: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator had given out at a time while ``function`` ran, beyond those before.

    Sums the allocations and releases that the profiler records, temporaries inside kernels included: the same number
    whatever else runs on the machine or was run before.
    """
    with _silent_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        held += change["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Keep the profiler's library from writing to stderr; it reads the variable when it first runs."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = before or SILENT
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@dataclass
class Measurement:
    """What one method took.

    Attributes:
        seconds: of a step, one per round; slow methods run in the first rounds only.
        peak_bytes: see :meth:`TimedStep.peak_bytes`.
        multiply_adds: of a step.
        plans: layer path -> class of its plan; empty without adapters, or where plans do not run.
    """

    seconds: list[float]
    peak_bytes: int
    multiply_adds: int
    plans: dict[str, str]

    def time_ratios(self, plain: "Measurement") -> tuple[float, float, float]:
        """Median, least and greatest over rounds of the time as a multiple of the plain backbone's in the same
        round.
        """
        ratios = [mine / other for mine, other in zip(self.seconds, plain.seconds, strict=False)]
        return median(ratios), min(ratios), max(ratios)


def measure_case(
    case: Case,
    *,
    rounds: int | None = None,
    plan: str = "auto",
    device: torch.device | str = "cpu",
    clock: str = "wall",
    speed: Speed = Speed(),
) -> dict[str, Measurement]:
    """All methods of a case, timed in turn: A B C A B C ...

    A machine's speed drifts; methods timed in the same round share it, so ratios within rounds hold where times do not.

    Args:
        case: what to measure.
        rounds: instead of the case's, 1 or more.
        plan: family of plans; methods that cannot run by it are left out.
        device: where it runs.
        clock: ``wall``, or ``cpu`` for processor time, which other programs on the machine change less; it means
            something on one thread only.
        speed: precision, layout, compiler.

    Returns:
        Name of the method -> what it took, the plain backbone first.

    Raises:
        ConfigError: for no rounds, an unknown plan or clock.
    """
    rounds = case.rounds if rounds is None else rounds
    positive_int("rounds", rounds)
    one_of("plan", plan, PLAN_NAMES)
    check_clock(clock, torch.device(device))
    names = [name for name in case.methods if plan in METHODS[name].plans]
    found: dict[str, Measurement] = {}
    steps: dict[str, TimedStep] = {}
    for name in names:
        step = steps[name] = TimedStep(build_module(name, case, plan), case.batch(), torch.device(device), clock, speed)
        found[name] = untimed(step)
        found[name].plans = chosen_plans(step) if METHODS[name].by_plans and not speed.compiled else {}
    take_turns(steps, found, rounds, slow=[name for name in names if METHODS[name].slow])
    return found


def untimed(step: TimedStep) -> Measurement:
    """What needs no clock, of the first steps, which also warm up: the first makes the optimiser's state."""
    counted = step.multiply_adds()
    for _ in range(WARM_UP[step.device.type]):
        step()
    return Measurement([], step.peak_bytes(), counted, {})


def take_turns(
    steps: Mapping[str, TimedStep], found: Mapping[str, Measurement], rounds: int, slow: Collection[str] = ()
) -> None:
    """Time steps in turn, A B C A B C ..., and add the seconds to what was ``found`` of them.

    Args:
        steps: name -> step.
        found: name -> its measurement.
        rounds: how often each is timed.
        slow: those that are timed in the first rounds only.
    """
    for turn in range(rounds):
        for name, step in steps.items():
            if turn < SLOW_ROUNDS or name not in slow:
                found[name].seconds.append(step.seconds())


def check_clock(clock: str, device: torch.device) -> None:
    """Raise :class:`ConfigError` for an unknown clock, or for processor time that would not be that of the work."""
    one_of("clock", clock, CLOCKS)
    if clock == "cpu" and (device.type != "cpu" or torch.get_num_threads() > 1):
        raise ConfigError(
            f"processor time is that of the work only on the CPU and one thread, here {device.type} and "
            f"{torch.get_num_threads()} threads; use --threads 1, or the wall clock"
        )


@torch.no_grad()
def chosen_plans(step: TimedStep) -> dict[str, str]:
    """Layer path -> class of the plan that the layer runs in this step; of the first task's rows where images have
    several.
    """
    architecture, rows = step.module.architecture, step.batch.rows
    if not rows.disjoint:
        rows = TaskRows({name: rows[name][: 0 if i else None] for i, name in enumerate(rows)}, rows.batch_size)
    routing = architecture.router(step.batch.images, rows)
    lines = architecture.backbone.explain_plans(step.batch.images, routing)
    return {line.path: line.chosen for line in lines}
