"""How much the tasks pull shared parameters apart: cosines between their gradients, and how alike their lengths are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mola_lightning.core.errors import ConfigError


def task_gradients(losses: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of each task's loss with respect to the same parameters, one row a task.

    Args:
        losses: task name -> scalar loss. A loss that does not depend on the parameters gives a row of zeros.
        parameters: P numbers in all; their ``.grad`` is left alone.

    Returns:
        (T, P) in the order of ``losses``, float, on the parameters' device. The graphs stay usable.

    Raises:
        ConfigError: when there is no parameter or no loss.
    """
    parameters = list(parameters)
    if not parameters or not losses:
        raise ConfigError(
            f"gradients need at least one loss and one shared parameter, got {len(losses)} and {len(parameters)}"
        )
    rows = []
    for loss in losses.values():
        if loss.requires_grad:
            gradients = torch.autograd.grad(
                loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        else:
            gradients = tuple(torch.zeros_like(parameter) for parameter in parameters)
        rows.append(torch.cat([gradient.detach().flatten() for gradient in gradients]))
    return torch.stack(rows)


def cosine_matrix(gradients: Tensor) -> Tensor:
    """Cosines between the rows of ``gradients`` (T, P): (T, T), in -1..1, NaN for rows that are zero or not finite."""
    rows = gradients.detach().double() if gradients.device.type != "mps" else gradients.detach().float()
    # Scaled by the largest entry before the norm, so that tiny gradients do not underflow to zero.
    scale = rows.abs().amax(dim=1, keepdim=True)
    rows = rows / scale
    rows = rows / rows.norm(dim=1, keepdim=True)
    return (rows @ rows.T).clamp(-1.0, 1.0)


def magnitude_similarity(gradients: Tensor) -> Tensor:
    """How alike the lengths of the rows of ``gradients`` (T, P) are: 2 |a| |b| / (|a|^2 + |b|^2).

    (T, T), in 0..1: 1 for equal lengths, near 0 where one task drowns the other; NaN for rows that are zero or not
    finite (Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, definition 3).
    """
    lengths = torch.linalg.vector_norm(gradients.detach(), dim=1, dtype=torch.float64)
    lengths = torch.where((lengths > 0) & lengths.isfinite(), lengths, torch.nan)
    ratio = lengths[:, None] / lengths[None]
    return 2 / (ratio + 1 / ratio)


def pairs_of(matrix: Tensor) -> Tensor:
    """The entries of a symmetric (T, T) above the diagonal that are numbers."""
    above = torch.triu(torch.ones_like(matrix, dtype=torch.bool), diagonal=1)
    return matrix[above & ~matrix.isnan()]


def conflict_statistics(gradients: Tensor, names: Sequence[str]) -> dict[str, object]:
    """The ``conflict`` entry of a run's summary, ready for JSON.

    Args:
        gradients: (T, P), one row a task.
        names: the T task names.

    Returns:
        ``names``; ``cosine``, the (T, T) matrix as lists, None where a task has no gradient; ``share_negative``, the
        share of task pairs with a negative cosine; ``mean_cosine`` and ``mean_magnitude_similarity`` over the pairs.
        These three are None without any pair.
    """
    if gradients.ndim != 2 or len(names) != gradients.shape[0]:
        raise ConfigError(f"expected one row of gradients for each of {len(names)} tasks, got {tuple(gradients.shape)}")
    cosine = cosine_matrix(gradients).cpu()
    pairs, lengths = pairs_of(cosine), pairs_of(magnitude_similarity(gradients).cpu())
    return {
        "cosine": [[None if value != value else value for value in row] for row in cosine.tolist()],
        "share_negative": float((pairs < 0).double().mean()) if len(pairs) else None,
        "mean_cosine": float(pairs.mean()) if len(pairs) else None,
        "mean_magnitude_similarity": float(lengths.mean()) if len(lengths) else None,
        "names": list(names),
    }
