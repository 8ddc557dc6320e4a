"""Per-task gradients, and a scalar that delivers whatever gradient was made of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mola_lightning.balancers.base import Step


class WithGradient(torch.autograd.Function):
    """A value whose gradient with respect to some parameters is, by construction, the one that was given.

    Its backward does not enter the network, yet it reaches the parameters the usual way: hooks of distributed training
    fire, and scaling, accumulation and clipping act as on any gradient.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        """``value``, as a new tensor."""
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Any, ...]:
        """``factor`` times the given gradients."""
        return None, None, *(gradient * factor.to(gradient.dtype) for gradient in ctx.gradients)


class OwnGradients:
    """The sum over tasks of the gradients of the parameters that are not shared, on this process.

    Args:
        step: the training step.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self._sums: list[Tensor | None] = [None] * len(step.own)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Those of one task, None where it does not reach a parameter."""
        for i, gradient in enumerate(gradients):
            before = self._sums[i]
            if gradient is not None:
                self._sums[i] = gradient if before is None else before + gradient

    def add_absent(self, terms: Iterable[Tensor]) -> None:
        """Zeros for what only tasks without rows reach, as the plain sum gives them: momentum goes on, weights decay.

        On several processes :meth:`pairs` does it. Stops at the task's own parameters: no pass through the network.
        """
        for term in terms if self.step.mean is None else ():
            left = [i for i, gradient in enumerate(self._sums) if gradient is None]
            if left and term.requires_grad:
                found = torch.autograd.grad(
                    term, [self.step.own[i] for i in left], retain_graph=True, allow_unused=True
                )
                for i, gradient in zip(left, found, strict=True):
                    self._sums[i] = gradient

    def pairs(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters and gradients, without the scaler's factor. A parameter that no task reaches is left out, unless
        other processes would wait for it.
        """
        found = []
        for parameter, gradient in zip(self.step.own, self._sums, strict=True):
            if gradient is not None:
                found.append((parameter, gradient if self.step.scale == 1 else gradient / self.step.scale))
            elif self.step.mean is not None:
                found.append((parameter, torch.zeros_like(parameter)))
        return found


@dataclass
class TaskGradients:
    """Gradients of a step, one backward pass a task.

    Attributes:
        jacobian: (T, P) of the T losses with respect to all shared parameters, flat, at least float32; mean over
            processes. Rows of absent tasks are zero.
        shared: the shared parameters that a loss reaches or may reach on another process, with their columns.
        own: the other parameters with the sum over tasks of their gradients on this process.
    """

    jacobian: Tensor
    shared: list[tuple[nn.Parameter, slice]]
    own: list[tuple[nn.Parameter, Tensor]]

    def deliver(self, value: Tensor, combined: Tensor) -> Tensor:
        """``value``, with the gradient ``combined`` (P,) for the shared parameters and their own for the others."""
        shared = [(p, combined[columns].view_as(p).to(p.dtype)) for p, columns in self.shared]
        return attach(value, [*shared, *self.own])


def attach(value: Tensor, pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """``value``, with these gradients for these parameters."""
    return WithGradient.apply(value, [gradient for _, gradient in pairs], *(parameter for parameter, _ in pairs))


def backward_per_task(
    losses: Tensor, present: Sequence[bool], shared: Sequence[nn.Parameter], step: Step
) -> TaskGradients:
    """T backward passes, one for each task that has rows on this process; no hook fires and no ``.grad`` is touched.

    Args:
        losses: (T,).
        present: T flags, whether a task is in the global batch.
        shared: the shared parameters, at least one.
        step: the training step.
    """
    terms, here = step.terms or losses.unbind(), step.here or present
    ends = list(accumulate(p.numel() for p in shared))
    columns = [slice(end - p.numel(), end) for p, end in zip(shared, ends, strict=True)]
    dtype = torch.promote_types(shared[0].dtype, torch.float32)
    jacobian = torch.zeros(len(losses), ends[-1], dtype=dtype, device=shared[0].device)
    reached, own = [False] * len(shared), OwnGradients(step)
    for t, term in enumerate(terms):
        if not here[t] or not term.requires_grad:
            continue
        found = torch.autograd.grad(term * step.scale, [*shared, *step.own], retain_graph=True, allow_unused=True)
        for i, gradient in enumerate(found[: len(shared)]):
            if gradient is not None:
                reached[i] = True
                jacobian[t, columns[i]] = gradient.flatten()
        own.add(found[len(shared) :])
        del found  # else two tasks' gradients are held at a time
    own.add_absent(term for term, there in zip(terms, here, strict=True) if not there)
    if step.scale != 1:
        jacobian.div_(step.scale)
    if step.mean is not None:
        # Every process must hand a gradient to each parameter, or the others wait for it.
        jacobian, reached = step.mean(jacobian), [True] * len(shared)
    pairs = zip(shared, columns, strict=True)
    return TaskGradients(jacobian, [pair for pair, was in zip(pairs, reached, strict=True) if was], own.pairs())
