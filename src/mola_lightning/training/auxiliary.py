"""The terms of the training loss beside the tasks' own: auxiliary losses, and penalties of the architecture."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from mola_lightning.architectures import Architecture
from mola_lightning.core import ConfigError, ModelOutput, Regime
from mola_lightning.losses import AuxiliaryLoss

AuxiliaryFactory = Callable[..., AuxiliaryLoss]


class AuxiliaryLosses(nn.ModuleDict):
    """The auxiliary losses of a method by name.

    Args:
        given: name -> auxiliary loss, or its factory, called with ``num_experts`` and ``num_tasks``.
        architecture: what they act on.

    Raises:
        ConfigError: for a loss on logits that the architecture does not have.
    """

    def __init__(self, given: Mapping[str, AuxiliaryLoss | AuxiliaryFactory], architecture: Architecture) -> None:
        super().__init__({name: _built(name, each, architecture) for name, each in given.items()})

    def forward(self, output: ModelOutput) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> the bare value, which is logged, and the weighted one, which is added; penalties last."""
        terms = {}
        for name, auxiliary in self.items():
            value = auxiliary(output)
            terms[name] = value, auxiliary.weight * value
        return terms | {name: (penalty, penalty) for name, penalty in output.penalties.items()}

    def check_regime(self, regime: Regime) -> None:
        """Raise :class:`ConfigError` when a loss is not defined for ``regime``."""
        for name, auxiliary in self.items():
            if regime not in auxiliary.regimes:
                raise ConfigError(
                    f"the auxiliary loss {name!r} is not defined for the {regime.value} regime of this data, where an "
                    "image has several tasks; leave it out with auxiliary=none"
                )


def _built(name: str, given: AuxiliaryLoss | AuxiliaryFactory, architecture: Architecture) -> AuxiliaryLoss:
    if not isinstance(given, nn.Module):
        # without experts: any number, so that a loss that needs logits is built and then refused
        given = given(num_experts=max(1, architecture.num_experts), num_tasks=len(architecture.tasks))
    if given.needs_logits and not architecture.learned_logits:
        raise ConfigError(
            f"the auxiliary loss {name!r} acts on a router's logits, and {type(architecture).__name__} "
            f"(method {architecture.method!r}) has none. Use a router that learns them (router=conv), or "
            "auxiliary=none."
        )
    return given
