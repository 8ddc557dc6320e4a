"""A network compiled, and laid out for a GPU's convolutions; the numbers stay the same up to rounding."""

import torch
from torch import nn

from mola_lightning.core import ConfigError
from mola_lightning.training.module import MultiTaskModule


def compile_networks(module: MultiTaskModule, backend: str = "inductor") -> None:
    """Compile the forward and backward passes of a module's backbone, and of its router where it has one.

    State-dict keys stay. MoLA's graph takes expert ids or mixing weights as inputs: how many rows each task has is no
    property of it, so batches of other mixtures run the same code.

    Args:
        module: what is trained.
        backend: of torch.compile.

    Raises:
        ConfigError: for a scheme without one backbone that runs every image.
    """
    architecture = module.architecture
    backbone = getattr(architecture, "backbone", None)
    if not isinstance(backbone, nn.Module) or isinstance(backbone, (nn.ModuleList, nn.ModuleDict)):
        raise ConfigError(
            f"compile: {architecture.method} has no single backbone to compile; leave it false, or train hps, "
            "mola_grad or mola_router"
        )
    backbone.compile(backend=backend)
    router = getattr(architecture, "router", None)
    if router is not None and router.learned_logits:  # the others compute next to nothing
        router.compile(backend=backend)


def lay_out_channels_last(module: nn.Module) -> None:
    """Lay the kernels of all 2-D convolutions out with channels last, which makes the activations follow."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
