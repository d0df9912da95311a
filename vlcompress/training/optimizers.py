"""The optimizers that the papers trained with, and their learning-rate schedule."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT's first release had it: no bias correction, decoupled decay on every parameter.

    m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  w <- w - lr (m / (sqrt(v) + eps) + decay w).
    LXMERT's optimizer (airsplay/lxmert, seeds in its run scripts): b1 0.9, b2 0.999, eps 1e-6, decay 0.01, and each
    parameter's own gradient is clipped to norm 1 besides the clipping that the loop does.

    Args:
        params: parameters, or groups of them.
        lr: learning rate; set anew before every step by the schedule.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decay, also of biases and LayerNorms.
        max_norm: each parameter's gradient is scaled down to this norm.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand; parameters without one are left alone."""
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._step_group(params, group)

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        means, squares = _moments(self, params)
        grads = _clip_each([param.grad for param in params if param.grad is not None], group["max_norm"])
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        updates = torch._foreach_sqrt(squares)
        torch._foreach_add_(updates, group["eps"])
        updates = torch._foreach_div(means, updates)
        torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"])


class AdamW(torch.optim.Optimizer):
    """Adam with bias correction and decoupled decay, as UNITER and ViLT were trained with.

    m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  w <- w - lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + eps);
    w <- w - lr decay w. The form and the defaults are those of ChenRocks/UNITER ``optim/adamw.py`` and its configs; it
    differs from torch's own in that eps is added before the correction. t is counted in each group's "taken".

    Args:
        params: parameters, or groups of them, each with its own decay.
        lr: learning rate; set anew before every step by the schedule.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decay.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "taken": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand; parameters without one are left alone."""
        for group in self.param_groups:
            group["taken"] += 1
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._step_group(params, group)

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        means, squares = _moments(self, params)
        grads = [param.grad for param in params if param.grad is not None]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        correction = (1 - beta2 ** group["taken"]) ** 0.5 / (1 - beta1 ** group["taken"])
        torch._foreach_addcdiv_(params, means, roots, -group["lr"] * correction)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


class Sgd(torch.optim.SGD):
    """Stochastic gradient descent with momentum 0.9 and decay inside the gradient (Chen et al., CVPR 2021, Table 1)."""

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, weight_decay: float = 2e-4
    ) -> None:
        super().__init__(params, lr=lr, momentum=0.9, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"bertadam": BertAdam, "adamw": AdamW, "sgd": Sgd}


DROPS = (91 / 182, 136 / 182)
"""Shares of the training after which SGD's rate falls to a tenth: epochs 91 and 136 of 182 (Chen et al., CVPR 2021)."""


def _moments(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return both moments of each parameter, zero before its first step."""
    for param in params:
        if not optimizer.state[param]:
            optimizer.state[param] = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
    states = [optimizer.state[param] for param in params]
    return [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]


def _clip_each(grads: list[Tensor], max_norm: float) -> list[Tensor]:
    norms = torch.stack(list(torch._foreach_norm(grads)))
    scales = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    return list(torch._foreach_mul(grads, list(scales.unbind())))


def rate(optimizer: str, step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate by which the papers that use an optimizer schedule it.

    Args:
        optimizer: a name in `OPTIMIZERS`.
        step: the step to be taken, from 1.
        steps: of the whole training.
        warmup: share of the steps in which the rate rises, in (0, 1).
    """
    return (warmup_steps if optimizer == "sgd" else warmup_linear)(step, steps, warmup)


def warmup_linear(step: int, steps: int, warmup: float) -> float:
    """Give the factor on the learning rate: up from 0 over the share `warmup` of the steps, then straight down to 0."""
    progress = step / steps
    return progress / warmup if progress < warmup else max(0.0, (1 - progress) / (1 - warmup))


def warmup_steps(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate: up from 0, then 1, then a tenth at each of `DROPS`."""
    progress = step / steps
    if progress < warmup:
        return progress / warmup
    return float(0.1 ** sum(progress > drop for drop in DROPS))
