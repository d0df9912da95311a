"""Repair: the values that kept weights must take so that each pruned layer gives what the dense one gave.

Of a layer y = W x + b only the second moments of x over some examples are needed: no labels, and no training (the
layer-wise least squares of Optimal Brain Surgeon; Frantar and Alistarh, NeurIPS 2022). What is approximate: each layer
is fitted to the inputs that it has in the dense model, not to those that the pruned layers before it make.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

DAMPING = 0.01
"""Of the mean of the diagonal, added to it: examples are few, and some inputs hardly vary."""

ROUNDING = 1e-5
"""Of the mean square of the inputs, at least: what float32 leaves of a difference of squares."""

ITERATIONS = 64
"""Steps of conjugate gradients at most."""

CLOSE = 1e-3
"""The residual, as a share of the first, at which they end."""


@dataclass(frozen=True)
class Moments:
    """What went into a linear layer, over all rows of some examples.

    Attributes:
        mean: E[x], float32 [in].
        second: E[x xᵀ], float32 [in, in].
        has_bias: whether the layer can make up for a shift of its output's mean.
    """

    mean: Tensor
    second: Tensor
    has_bias: bool

    @cached_property
    def hessian(self) -> Tensor:
        """Second derivative of the squared error of the output by a row of weights, damped: float32 [in, in].

        With a bias to take up the mean, it is the covariance.
        """
        varying = self.second - torch.outer(self.mean, self.mean) if self.has_bias else self.second.clone()
        damping = max(DAMPING * float(varying.diagonal().mean()), ROUNDING * float(self.second.diagonal().mean()))
        varying.diagonal().add_(damping or 1.0)  # 1 where nothing goes in
        return varying

    def to(self, device: torch.device) -> "Moments":
        """Copy to another device."""
        return Moments(self.mean.to(device), self.second.to(device), self.has_bias)


@torch.no_grad()
def repair(model: nn.Module, masks: Mapping[str, Tensor], moments: Mapping[str, Moments]) -> None:
    """Give kept weights, and biases, the values that bring each pruned layer's output closest to what it was.

    Args:
        model: dense; its masked weights become zero.
        masks: what is kept.
        moments: of the inputs of every weight of `masks`, in this model.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        weight, of = parameters[name], moments[name]
        mended = least_squares(weight, mask.to(weight.device), of.hessian)
        bias = parameters.get(f"{name.removesuffix('weight')}bias")
        if bias is not None:
            bias.copy_(bias + (weight - mended) @ of.mean)
        weight.copy_(mended)


def least_squares(weight: Tensor, mask: Tensor, hessian: Tensor) -> Tensor:
    """Solve min (V - W) H (V - W)ᵀ, row by row, over the V that are zero where `mask` is.

    Where every row that is left has lost the same columns, as whole units leave it, one factorisation solves all rows;
    else conjugate gradients do.

    Args:
        weight: W, float32 [out, in].
        mask: bool [out, in].
        hessian: H, float32 [in, in], positive definite.

    Returns:
        V, float32 [out, in]; no worse than W with zeros, however early the steps end.
    """
    if bool(mask.all()):
        return weight.clone()
    there = mask.any(dim=0).nonzero().squeeze(1)
    if bool((mask == torch.outer(mask.any(dim=1), mask.any(dim=0))).all()):
        return _of_whole_columns(weight, mask, hessian, there)
    kept, inner = mask[:, there], hessian[there][:, there]
    precondition = 1 / inner.diagonal()
    solution = weight[:, there] * kept
    residual = (weight @ hessian[:, there] - solution @ inner) * kept
    towards = residual * precondition
    power = first = (residual * towards).sum(dim=1, keepdim=True)
    for _ in range(ITERATIONS):
        unsolved = power > CLOSE**2 * first
        if not bool(unsolved.any()):
            break
        product = (towards @ inner) * kept
        step = (power / _positive((towards * product).sum(dim=1, keepdim=True))) * unsolved
        solution += step * towards
        residual -= step * product
        ahead = residual * precondition
        before, power = power, (residual * ahead).sum(dim=1, keepdim=True)
        towards = ahead + power / _positive(before) * towards
    found = torch.zeros_like(weight).index_copy_(1, there, solution)
    return found.masked_fill_(~mask, 0)  # no negative zeros


def _of_whole_columns(weight: Tensor, mask: Tensor, hessian: Tensor, there: Tensor) -> Tensor:
    """Solve for the columns `there` alone, by Cholesky's factors in float64."""
    found = weight.clone()
    if 0 < len(there) < weight.shape[1]:
        inner, wanted = hessian[there][:, there].double(), (weight @ hessian[:, there]).double()
        solved = torch.cholesky_solve(wanted.T, torch.linalg.cholesky(inner)).T
        found.index_copy_(1, there, solved.to(weight.dtype))
    return found.masked_fill_(~mask, 0)


def _positive(divisor: Tensor) -> Tensor:
    """Keep a divisor off zero: what stands over it is zero too."""
    return divisor.clamp(min=torch.finfo(torch.float32).tiny)
