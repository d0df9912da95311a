"""The optimizers that the papers trained with, and their learning-rate schedule."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor


class _Adam(torch.optim.Optimizer):
    """Adam's moments m <- b1 m + (1-b1) g and v <- b2 v + (1-b2) g^2; what a weight makes of them is `_move`'s.

    Args:
        params: parameters, or groups of them, each with its own decay.
        lr: learning rate; set anew before every step by the schedule.
        weight_decay: decoupled from the gradient.

    A group's "taken" counts its steps.
    """

    betas: ClassVar[tuple[float, float]]
    eps: ClassVar[float] = 1e-6

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "taken": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand; parameters without one are left alone."""
        for group in self.param_groups:
            group["taken"] += 1
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                grads = self._seen([param.grad for param in params])
                self._move(group, params, *self._moments(params, grads))

    def _moments(self, params: list[Tensor], grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Take the gradients into both moments of each parameter, zero before its first step."""
        for param in params:
            if not self.state[param]:
                self.state[param] = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
        means, squares = ([self.state[param][key] for param in params] for key in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = self.betas
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        return means, squares

    def _seen(self, grads: list[Tensor]) -> list[Tensor]:
        return grads

    def _move(self, group: dict[str, Any], params: list[Tensor], means: list[Tensor], squares: list[Tensor]) -> None:
        raise NotImplementedError


class BertAdam(_Adam):
    """Adam as BERT's first release had it: no bias correction, decay of every parameter, also biases and LayerNorms.

    w <- w - lr (m / (sqrt(v) + eps) + decay w). LXMERT's optimizer (airsplay/lxmert, seeds in its run scripts): each
    parameter's own gradient is clipped to norm 1 besides the clipping that the loop does.
    """

    betas = (0.9, 0.999)

    def _seen(self, grads: list[Tensor]) -> list[Tensor]:
        norms = torch.stack(list(torch._foreach_norm(grads)))
        scales = (1.0 / (norms + 1e-6)).clamp(max=1.0)
        return list(torch._foreach_mul(grads, list(scales.unbind())))

    def _move(self, group: dict[str, Any], params: list[Tensor], means: list[Tensor], squares: list[Tensor]) -> None:
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, self.eps)
        updates = torch._foreach_div(means, roots)
        torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"])


class AdamW(_Adam):
    """Adam with bias correction and decoupled decay, as UNITER and ViLT were trained with.

    w <- w - lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + eps); w <- w - lr decay w. The form and the constants are those of
    ChenRocks/UNITER ``optim/adamw.py`` and its configs; it differs from torch's own in that eps is added before the
    correction.
    """

    betas = (0.9, 0.98)

    def _move(self, group: dict[str, Any], params: list[Tensor], means: list[Tensor], squares: list[Tensor]) -> None:
        beta1, beta2 = self.betas
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, self.eps)
        correction = (1 - beta2 ** group["taken"]) ** 0.5 / (1 - beta1 ** group["taken"])
        torch._foreach_addcdiv_(params, means, roots, -group["lr"] * correction)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


class Sgd(torch.optim.SGD):
    """Stochastic gradient descent with momentum 0.9 and decay inside the gradient (Chen et al., CVPR 2021, Table 1).

    On a GPU by torch's fused kernel, which computes the same. (torch's fused Adam is neither of those above: it adds
    eps elsewhere, or corrects a bias that BertAdam leaves.)
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, weight_decay: float = 2e-4
    ) -> None:
        groups: list[Any] = list(params)
        first = groups[0]["params"][0] if groups and isinstance(groups[0], dict) else groups[0]
        super().__init__(groups, lr=lr, momentum=0.9, weight_decay=weight_decay, fused=first.is_cuda or None)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"bertadam": BertAdam, "adamw": AdamW, "sgd": Sgd}


DROPS = (91 / 182, 136 / 182)
"""Shares of the training after which SGD's rate falls to a tenth: epochs 91 and 136 of 182 (Chen et al., CVPR 2021)."""


def rate(optimizer: str, step: int, steps: int, warmup: float) -> float:
    """Schedule the learning rate as the papers that use an optimizer do: the factor on it at a step.

    Args:
        optimizer: a name in `OPTIMIZERS`.
        step: the step to be taken, from 1.
        steps: of the whole training.
        warmup: share of the steps in which the rate rises, in (0, 1).
    """
    return (warmup_steps if optimizer == "sgd" else warmup_linear)(step, steps, warmup)


def warmup_linear(step: int, steps: int, warmup: float) -> float:
    """Rise from 0 over the share `warmup` of the steps, then fall straight to 0."""
    progress = step / steps
    return progress / warmup if progress < warmup else max(0.0, (1 - progress) / (1 - warmup))


def warmup_steps(step: int, steps: int, warmup: float) -> float:
    """Rise from 0 over the share `warmup` of the steps, then fall to a tenth at each of `DROPS`."""
    progress = step / steps
    if progress < warmup:
        return progress / warmup
    return float(0.1 ** sum(progress > drop for drop in DROPS))
