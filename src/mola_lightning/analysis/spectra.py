"""What low-rank experts learned: spectra of their weight changes Delta_e, where they are large, how much they share."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from mola_lightning.adapters import AdaptedLayer
from mola_lightning.analysis.routing import FloatArray
from mola_lightning.core import ConfigError

TINY = 1e-6  # singular values below this share of the largest count as zero: rounding in float32


@dataclass
class Spectra:
    """Measurements of all experts of a backbone.

    Attributes:
        table: a row for each layer and expert: ``layer``, ``stage``, ``expert``, ``norm`` (Frobenius, of Delta_e),
            ``relative_norm`` (over that of the layer's weight), ``effective_rank``, ``largest_rank``.
        singular_values: layer -> (E, K), descending.
        angles: (E, E) typical principal angle in degrees between the column spaces of two experts: that whose cos^2 is
            the mean over angles and layers; NaN for an expert that is zero everywhere.
        random_angle: the same for random subspaces of these sizes; NaN with a single expert.
        inner: (E, E) inner products of Delta_e and Delta_f, summed over layers.
        weight_norm: Frobenius norm of the adapted layers' own weights together.
    """

    table: pd.DataFrame
    singular_values: dict[str, NDArray[np.float64]]
    angles: FloatArray
    random_angle: float
    inner: FloatArray
    weight_norm: float


def effective_rank(singular_values: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values (Roy and Vetterli, EUSIPCO 2007).

    k for k equal values, 1 for a single one, NaN when all are zero.
    """
    total = singular_values.sum()
    if float(total) <= 0:
        return float("nan")
    p = singular_values.double() / total
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """The angles in degrees between two subspaces, ascending, as many as the smaller one has dimensions.

    Args:
        first: (O, R) orthonormal columns.
        second: (O, S) orthonormal columns.
    """
    cosines = torch.linalg.svdvals(first.T.double() @ second.double()).clamp(max=1.0)
    return torch.rad2deg(torch.arccos(cosines))


@torch.no_grad()
def expert_spectra(adapted: Mapping[str, AdaptedLayer], stages: Mapping[str, str]) -> Spectra:
    """Measure the experts of a backbone.

    A Delta_e is looked at as the matrix whose rank its kind bounds: (O*kh, I*kw) for reshaped experts, (O, I*kh*kw)
    for the others.

    Args:
        adapted: path -> layer, as ``AdaptedBackbone.adapted`` gives them.
        stages: path -> stage of the backbone.

    Raises:
        ConfigError: when there is no adapted layer.
    """
    if not adapted:
        raise ConfigError("there is no adapted layer whose experts could be looked at")
    rows: list[dict[str, object]] = []
    values, overlaps, chance = {}, [], []
    inner, weight_square = torch.zeros(1), 0.0
    for path, layer in adapted.items():
        matrices = delta_matrices(layer)
        bases, found, _ = torch.linalg.svd(matrices, full_matrices=False)
        values[path] = found.numpy()
        spaces = [basis[:, s > TINY * max(float(s[0]), 1e-30)] for basis, s in zip(bases, found, strict=True)]
        overlaps.append(_overlaps(spaces))
        # E cos^2 of random subspaces of R^d: the larger dimension over d.
        chance += [max(a.shape[1], b.shape[1]) / len(a) for i, a in enumerate(spaces) for b in spaces[:i]]
        flat = matrices.flatten(1)
        inner = inner + flat @ flat.T
        weight = float(layer.weight.detach().double().norm())
        weight_square += weight**2
        rows += [_row(layer, path, stages.get(path, ""), e, s, weight) for e, s in enumerate(found)]
    random = float(np.mean(chance)) if chance else np.nan
    return Spectra(
        pd.DataFrame(rows),
        values,
        _angle(_mean_over_layers(np.array(overlaps))),
        float(_angle(np.array(random))),
        inner.numpy(),
        weight_square**0.5,
    )


def delta_matrices(layer: AdaptedLayer) -> Tensor:
    """(E, rows, columns) float64 on the host: each Delta_e as the matrix whose rank is bounded."""
    deltas = layer.delta().detach().double().cpu()
    out = layer.weight.shape[0] * (layer.kernel[0] if layer.kind_name == "reshaped" else 1)
    return deltas.reshape(len(deltas), out, -1)


def model_distances(inner: FloatArray, mixing: FloatArray, weight_norm: float) -> FloatArray:
    """How far the merged models of two tasks lie apart, (T, T), as a share of the norm of the adapted weights.

    The merged model of a task has the weights W + sum_e mixing[t, e] Delta_e.

    Args:
        inner: (E, E) inner products of the experts' Delta.
        mixing: (T, E) mean mixing weights of each task.
        weight_norm: of W; the distances are NaN where it is zero.
    """
    gram = mixing @ inner @ mixing.T
    squares = np.diag(gram)[:, None] + np.diag(gram)[None] - 2 * gram
    return np.sqrt(squares.clip(min=0.0)) / (weight_norm or np.nan)


def stage_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Share of each stage (column) in the squared norm of each expert (row); rows sum to one."""
    squares = table.assign(square=table["norm"] ** 2).pivot_table("square", "expert", "stage", "sum", sort=False)
    return squares.div(squares.sum(axis=1), axis=0)


def _largest_rank(layer: AdaptedLayer) -> int:
    """The bound on the rank of a Delta_e."""
    rows = layer.weight.shape[0] * (layer.kernel[0] if layer.kind_name == "reshaped" else 1)
    full = min(rows, layer.weight[0].numel() * layer.weight.shape[0] // rows)
    rank = {"reshaped": layer.rank * layer.kernel[0], "factorised": layer.rank}.get(layer.kind_name, full)
    return min(rank, full)


def _row(layer: AdaptedLayer, path: str, stage: str, expert: int, values: Tensor, weight: float) -> dict[str, object]:
    norm = float(values.norm())
    return {
        "layer": path,
        "stage": stage,
        "expert": expert,
        "norm": norm,
        "relative_norm": norm / weight if weight else float("nan"),
        "effective_rank": effective_rank(values),
        "largest_rank": _largest_rank(layer),
    }


def _overlaps(spaces: list[Tensor]) -> FloatArray:
    """(E, E) mean cos^2 of the principal angles, NaN for experts that are zero."""
    found = np.full((len(spaces), len(spaces)), np.nan)
    for i, first in enumerate(spaces):
        for j, second in enumerate(spaces[: i + 1]):
            if first.shape[1] and second.shape[1]:
                angles = torch.deg2rad(principal_angles(first, second))
                found[i, j] = found[j, i] = float(torch.cos(angles).square().mean())
    return found


def _mean_over_layers(overlaps: FloatArray) -> FloatArray:
    """(L, E, E) -> (E, E), over the layers in which both experts are something."""
    counts = np.isfinite(overlaps).sum(axis=0)
    return np.divide(np.nansum(overlaps, axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def _angle(overlap: FloatArray) -> FloatArray:
    """The angle in degrees of a mean cos^2."""
    return np.degrees(np.arccos(np.sqrt(overlap.clip(0.0, 1.0))))
