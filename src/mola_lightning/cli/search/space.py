"""The space of a search: from Hydra's sweep overrides to Optuna's distributions, and from values back to overrides."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from mola_lightning.core.errors import require

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LOG = "log"
DIGITS = 4  # significant ones of a float: a learning rate of 0.001234 is one that a reader can copy


class Axis:
    """One hyper-parameter and the values that it can take.

    Args:
        override: of Hydra's grammar: ``choice(...)`` or ``a,b``, ``range(...)``, ``interval(...)`` (of floats) or
            ``int(interval(...))`` (both ends included); ``tag(log, ...)`` makes a range of step 1 or an interval
            logarithmic.

    Attributes:
        key: of the config, with the prefix that it was given with (``+``).
        values: all values, in order; None for an interval of floats.
        low, high: ends of an interval or range.
        log: whether it is logarithmic.
        distribution: of Optuna.

    Raises:
        ConfigError: for an empty or unsuitable space.
    """

    def __init__(self, override: Override) -> None:
        self.key = override.get_key_element()
        sweep = override.value()
        tags = set(sweep.tags) if isinstance(sweep, Sweep) else set()
        require(tags <= {LOG}, f"{self.key}: the only tag of a search is {LOG!r}, got {sorted(tags)}")
        self.log = LOG in tags
        self.values: Sequence[Any] | None = None
        self.low: Any = None
        self.high: Any = None
        self._texts: dict[Any, str] = {}
        if isinstance(sweep, IntervalSweep):
            self.distribution = self._interval(sweep)
            return
        texts = list(override.sweep_string_iterator())
        require(bool(texts), f"{self.key} has no value to choose from in {override.input_line!r}")
        self.distribution = self._range(sweep) if isinstance(sweep, RangeSweep) else self._choice(sweep, texts)

    def _interval(self, sweep: IntervalSweep) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        self.low, self.high = sweep.start, sweep.end
        require(
            self.low is not None and self.high is not None and self.low <= self.high,
            f"{self.key}: an interval goes from a lower to a higher value, got {self.low} and {self.high}",
        )
        require(not self.log or self.low > 0, f"{self.key}: a logarithmic interval begins above 0, got {self.low}")
        if isinstance(self.low, int) and isinstance(self.high, int):
            self.values = range(self.low, self.high + 1)
            return IntDistribution(self.low, self.high, log=self.log)
        self.low, self.high = float(self.low), float(self.high)
        return FloatDistribution(self.low, self.high, log=self.log)

    def _range(self, sweep: RangeSweep) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        # Hydra adds up steps that no float can say: 0.30000000000000004.
        values = sorted(v if isinstance(v, int) else float(f"{v:.12g}") for v in sweep.range())
        self.values, self.low, self.high, step = values, values[0], values[-1], abs(sweep.step)
        whole = all(isinstance(value, int) for value in values)
        require(
            not self.log or (whole and step == 1 and self.low > 0),
            f"{self.key}: a logarithmic range is of positive integers, of step 1",
        )
        if whole:
            return IntDistribution(self.low, self.high, log=self.log, step=int(step))
        return FloatDistribution(self.low, self.high, step=float(step))

    def _choice(self, sweep: Any, texts: Sequence[str]) -> "BaseDistribution":
        """Numbers as numbers, where all are; else the texts: Optuna keeps no lists or mappings."""
        from optuna.distributions import CategoricalDistribution

        require(not self.log, f"{self.key}: {LOG!r} suits interval and range, not a choice")
        found = sweep.list if isinstance(sweep, ChoiceSweep) else texts
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
        self._texts = dict(zip(found if numbers else texts, texts, strict=True))
        self.values = list(self._texts)
        return CategoricalDistribution(self.values)

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the axis: equal shares are equally likely."""
        if self.log:
            top = self.high if self.values is None else self.high + 1
            value = self.low * (top / self.low) ** share
            return self.snap(value if self.values is None else math.floor(value))
        if self.values is not None:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        return self.snap(self.low + share * (self.high - self.low))

    def snap(self, value: Any) -> Any:
        """The value of the axis that is meant by one that an Optuna sampler or a formula gives."""
        if isinstance(value, str) or value in self._texts:
            return value
        if self.values is not None:
            return min(self.values, key=lambda known: abs(known - value))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def override(self, value: Any) -> str:
        """The override that sets the value."""
        return f"{self.key}={self._texts.get(value, value)}"


class Space:
    """All hyper-parameters of a search, and the settings that its trials share.

    Args:
        overrides: parsed; a later one of the same key stands for an earlier one.

    Attributes:
        axes: the hyper-parameters, in the order given.
        fixed: overrides of every trial.
    """

    def __init__(self, overrides: Sequence[Override]) -> None:
        last = {(override.key_or_group, override.package): override for override in overrides}
        self.axes = [Axis(override) for override in last.values() if override.is_sweep_override()]
        self.fixed = [str(override.input_line) for override in last.values() if not override.is_sweep_override()]
        self.texts = {o.get_key_element(): o.get_value_string() for o in last.values() if o.is_sweep_override()}
        require(
            bool(self.axes),
            "a search needs hyper-parameters to vary: in hydra.sweeper.params, or on the command line, as "
            "'adapter.rank=choice(2,4,8)' or 'optimizer.lr=tag(log,interval(1e-3,1e-1))'",
        )

    @property
    def size(self) -> int | None:
        """The number of points; None if an axis is continuous."""
        lengths = [None if axis.values is None else len(axis.values) for axis in self.axes]
        return math.prod(n for n in lengths if n is not None) if None not in lengths else None

    @property
    def distributions(self) -> dict[str, Any]:
        """Key -> distribution of Optuna."""
        return {axis.key: axis.distribution for axis in self.axes}

    def points(self) -> Iterator[dict[str, Any]]:
        """All points of a finite space; the last axis changes fastest."""
        for values in product(*(axis.values or () for axis in self.axes)):
            yield {axis.key: value for axis, value in zip(self.axes, values, strict=True)}

    def at(self, shares: Sequence[float]) -> dict[str, Any]:
        """The point at a share in [0, 1) of each axis."""
        return {axis.key: axis.at(share) for axis, share in zip(self.axes, shares, strict=True)}

    def snap(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The point that is meant by the values that an Optuna sampler gives."""
        return {axis.key: axis.snap(params[axis.key]) for axis in self.axes}

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides that set a point."""
        return [axis.override(params[axis.key]) for axis in self.axes]
