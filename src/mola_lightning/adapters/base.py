"""What adapted convolutions and linear layers have in common."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mola_lightning.adapters.kinds import PARAMETRISATIONS
from mola_lightning.adapters.plans import PLAN_NAMES, choose
from mola_lightning.adapters.scope import MixingScope
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import one_of, positive_int


class AdaptedLayer(nn.Module, ABC):
    """A layer with E experts: y[b] = f(x[b]; W + sum_e mixing[b, e] Delta_e) (MoLA, Zhou et al., ICML 2024).

    Mixed in before a layer type (``nn.Conv2d``, ``nn.Linear``), whose ``weight`` and ``bias`` keep their names. The
    experts' parameters are single tensors stacked over experts, so that none of them is ever without gradient.

    Attributes:
        lora_A, lora_B: the stacked factors of the low-rank kinds (``expert_weight`` for full-rank experts).
        scaling: alpha / rank.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    channel_dim: int  # axis of the output channels
    grouped_products: bool = False  # whether ``run_groups`` always calls matrix products
    shares_product: bool = False  # whether there is ``run_shared``
    groups: int = 1

    def _attach(
        self, base: nn.Module, *, num_experts: int, rank: int, alpha: float, kind: str, scope: MixingScope, plan: str
    ) -> None:
        """Take over ``base``'s weight and bias and add the experts."""
        positive_int("num_experts", num_experts)
        positive_int("rank", rank)
        one_of("kind", kind, PARAMETRISATIONS)
        one_of("plan", plan, PLAN_NAMES)
        self.weight, self.bias = base.weight, base.bias
        self.num_experts, self.rank, self.alpha = num_experts, rank, alpha
        self.scaling = alpha / rank
        self.kind_name, self.kind, self.scope, self.plan = kind, PARAMETRISATIONS[kind], scope, plan
        out, inner = self.weight.shape[:2]
        for name, parameter in self.kind.build((out, inner, *self.kernel), num_experts, rank, self.weight).items():
            self.register_parameter(name, parameter)
        self.train(base.training)

    @property
    def kernel(self) -> tuple[int, int]:
        """(kh, kw) of the weight; (1, 1) for linear layers."""
        return tuple(self.weight.shape[2:]) if self.weight.ndim == 4 else (1, 1)

    def delta(self, expert: int | None = None) -> Tensor:
        """Delta_e of the weight's shape, scaled by alpha / rank; of all experts, (E, *weight.shape), when None. It may
        be a parameter itself: not to be written into.

        Raises:
            ConfigError: for an expert that does not exist.
        """
        if expert is None:
            return self.kind.delta(self)
        if not 0 <= expert < self.num_experts:
            raise ConfigError(f"expert must lie in 0..{self.num_experts - 1}, got {expert}")
        return self.kind.delta(self, [expert])[0]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the mixing that is bound now; shapes as in the layer type it replaces."""
        mixing = self.scope.current().expand(x.shape[0])
        x = self.prepare(x)
        return choose(self, x, mixing).run(self, x, mixing)

    # What a plan builds on. x is what prepare returned.

    def prepare(self, x: Tensor) -> Tensor:
        """Apply whatever the layer type does to its input before the product (padding modes other than zeros)."""
        return x

    @abstractmethod
    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer type's product with another weight (any number of output channels) and bias."""

    @abstractmethod
    def run_rows(self, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Each row's product with its own weight: weights (B, *weight.shape)."""

    @abstractmethod
    def run_groups(self, x: Tensor, weights: Tensor, sizes: Tensor, bias: Tensor | None) -> Tensor:
        """Products of consecutive groups of rows with a weight each: weights (G, *weight.shape), sizes (G,) int64 on
        the host.
        """

    def unfold(self, x: Tensor) -> Tensor:
        """(B, I*kh*kw, positions): what a kernel larger than one pixel reads at each output position."""
        raise TypeError(f"{type(self).__name__} reads one position at a time")

    def columns(self, x: Tensor) -> Tensor:
        """(I*kh*kw, positions*B): the same as the columns of one matrix, the batch innermost."""
        raise TypeError(f"{type(self).__name__} reads one position at a time")

    def of_columns(self, y: Tensor, x: Tensor) -> Tensor:
        """The output, bias included, from products (O, positions*B) with the columns of x."""
        raise TypeError(f"{type(self).__name__} reads one position at a time")

    def run_shared(self, x: Tensor, down: Tensor, up: Tensor, weights: Tensor) -> Tensor:
        """The output for codes that are weighted by (B, E*M): down (E*M, I), up (O, E*M)."""
        raise TypeError(f"{type(self).__name__} shares no product")

    @abstractmethod
    def run_up(self, codes: Tensor, up: Tensor) -> Tensor:
        """A pointwise product: codes with M channels, up (O, M) -> O channels."""

    @abstractmethod
    def scale(self, y: Tensor, weights: Tensor) -> Tensor:
        """Y times (B, channels) weights, broadcast along its other axes."""

    @abstractmethod
    def row_codes(self, x: Tensor, down: Tensor) -> Tensor:
        """Pointwise layers only: each row times its own factor down (B, M, I, ...) -> codes, as ``add_up`` takes
        them.
        """

    def add_shared_up(self, y: Tensor, codes: Tensor, up: Tensor) -> Tensor:
        """Y, which no backward pass reads, plus codes times up (O, M)."""
        return y.add_(self.run_up(codes, up))

    @abstractmethod
    def add_up(self, y: Tensor, codes: Tensor, up: Tensor) -> Tensor:
        """Y, which no backward pass reads and which may be written over, plus each row's codes times its own up
        (B, O, M).
        """

    @abstractmethod
    def positions(self, x: Tensor) -> int:
        """Output positions of the whole input: rows times pixels, or tokens."""

    @abstractmethod
    def mix(self, every: Tensor, weights: Tensor) -> Tensor:
        """Outputs of all experts, the channel axis split in (E, O), weighted by (B, E) and summed over experts."""

    @abstractmethod
    def inputs_per_position(self) -> int:
        """Numbers of the input for each output position."""

    def regrouped_per_position(self) -> int:
        """Numbers copied for each output position to put the results of ``run_groups`` together, forward and back."""
        return 0

    @property
    def pointwise(self) -> bool:
        """Whether an output position reads one input position only."""
        return self.kernel == (1, 1)

    def extra_repr(self) -> str:
        """The layer type's line, and the experts."""
        experts = f"num_experts={self.num_experts}, rank={self.rank}, alpha={self.alpha}, kind={self.kind_name}"
        return f"{super().extra_repr()}, {experts}"

    @abstractmethod
    def plain(self) -> nn.Module:
        """A layer of the original type that shares this one's weight and bias, without experts."""
