"""Balancers that weigh tasks by the gradients of the features they share: one backward pass through the backbone."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mola_lightning.balancers.base import ALONE, Step
from mola_lightning.balancers.gradient import gramian_of
from mola_lightning.balancers.gramian import MGDA, AlignedMTL, GramianBalancer
from mola_lightning.balancers.with_gradient import OwnGradients, attach
from mola_lightning.core import ConfigError, Regime, TaskRows


class FeatureLevel(GramianBalancer):
    """Weights from the Gramian of the losses' gradients with respect to the features that all tasks read.

    Defined where tasks share rows and one backbone gives all of them the same features: single-input data with HPS or
    MoLA-Router. Where each row has one task, the gradients of two tasks lie on different rows, their inner products are
    zero, and the Gramian says nothing of conflict; where each task has features of its own, there is nothing shared to
    differentiate by. Heads keep their unweighted gradients.

    A method that has a form for parameter gradients is made of it: ``class MGDAUB(FeatureLevel, MGDA)``.

    Args: those of :class:`GramianBalancer`, or of the form for parameter gradients.

    Attributes:
        on_parameters: the configs' name of the form for parameter gradients, for messages.
    """

    on_parameters: ClassVar[str] = "..."
    _rows_are_shared = False

    def check_regime(self, regime: Regime) -> None:
        """Only single-input data have rows that tasks share."""
        if regime is not Regime.SINGLE_INPUT:
            raise ConfigError(
                f"{type(self).__name__} weighs tasks by the gradients of features that they share. In the "
                f"{regime.value} regime each row belongs to one task: the Gramian of these gradients is diagonal, "
                f"whatever the conflict. Use a balancer on parameter gradients instead (balancer={self.on_parameters})."
            )
        self._rows_are_shared = True

    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter], *, step: Step = ALONE) -> Tensor:
        """sum_t L_t, with the weighted gradient for the shared parameters."""
        flags = present.tolist()
        if not shared or not any(flags):
            return losses.sum()
        features, rows = self._shared_features(step)
        own, gradients = OwnGradients(step), []
        for feature, term, flag in zip(features, step.terms or losses.unbind(), flags, strict=True):
            found: Sequence[Tensor | None] = (None,)
            if flag and term.requires_grad:
                wanted = [feature, *step.own]
                found = torch.autograd.grad(term * step.scale, wanted, retain_graph=True, allow_unused=True)
            gradients.append(torch.zeros_like(feature) if found[0] is None else found[0] / step.scale)
            own.add(found[1:])
        own.add_absent(t for t, flag in zip(step.terms or losses.unbind(), flags, strict=True) if not flag)
        chosen = torch.tensor([t for t, flag in enumerate(flags) if flag], device=losses.device)
        with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
            weights = self.task_weights(_feature_gramian(gradients, rows, chosen, step), chosen, len(rows))
        parts = zip(features, weights.unbind(), gradients, strict=True)
        through = torch.stack([(f * (w * g).to(f.dtype)).sum() for f, w, g in parts]).sum()
        return attach(losses.detach().sum(), own.pairs()) + (through - through.detach())

    def _shared_features(self, step: Step) -> tuple[Sequence[Tensor], TaskRows]:
        """Features and rows of the step, after checking that the features are rows of one tensor."""
        features, rows = step.features, step.rows
        if features is None or rows is None or not _one_source(features, rows):
            raise ConfigError(
                f"{type(self).__name__} needs one pass whose features all tasks read; this architecture gives each "
                f"task features of its own. Use architecture=hps, or a balancer on parameter gradients "
                f"(balancer={self.on_parameters})."
            )
        if not self._rows_are_shared and rows.disjoint:
            self.check_regime(Regime.MULTI_INPUT)  # nobody said which regime it is; this batch does
        return features, rows


def _feature_gramian(gradients: Sequence[Tensor], rows: TaskRows, chosen: Tensor, step: Step) -> Tensor:
    """(n, n) of the gradients (n_t, D, ...) with respect to each task's rows of the features."""
    width = gradients[0].shape[1:].numel()
    jacobian = torch.zeros(len(rows), rows.batch_size, width, device=chosen.device)
    for t, (gradient, at) in enumerate(zip(gradients, rows.values(), strict=True)):
        jacobian[t, at] = gradient.flatten(1).float()
    gramian = gramian_of(jacobian.flatten(1), chosen)
    # Rows of other processes are other entries of the gradient, so Gramians add up; weights have no scale.
    return gramian if step.mean is None else step.mean(gramian)


def _one_source(features: Sequence[Tensor], rows: TaskRows) -> bool:
    """Whether all features are ``z[rows[task]]`` of one tensor z, or z itself; told from the graph, not from values."""
    sources = set()
    for feature, at in zip(features, rows.values(), strict=True):
        if not len(at):
            continue
        node = feature.grad_fn
        indices = getattr(node, "_saved_indices", (None,))  # of indexing, and of it alone
        taken = node is not None and indices[0] is not None and indices[0].data_ptr() == at.data_ptr()
        sources.add(node.next_functions[0][0] if node is not None and taken else id(feature))
    return len(sources) == 1


class MGDAUB(FeatureLevel, MGDA):
    """MGDA-UB: :class:`MGDA` on feature gradients, an upper bound of its objective (Sener & Koltun, NeurIPS 2018).

    Args: those of :class:`MGDA`.
    """

    on_parameters = "mgda"


class AlignedMTLUB(FeatureLevel, AlignedMTL):
    """Aligned-MTL-UB: :class:`AlignedMTL` on feature gradients (Senushkin et al., CVPR 2023).

    Args: those of :class:`AlignedMTL`.
    """

    on_parameters = "aligned_mtl"
