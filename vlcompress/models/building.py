"""What every family shares when it makes a model: shapes first, then weights from a private random generator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

FRESH_STD = 0.02
"""Standard deviation of a fresh matrix (BERT's ``initializer_range``)."""


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """Run a constructor on the meta device: every shape, no memory, no time and no random numbers."""
    with torch.device("meta"):
        return make()


def left_and_right(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split rows [2B, ...] that belong in pairs into their first and their second ones [B, ...].

    Gathered, and not reshaped: a reshape would tell the ONNX exporter that the number of rows is even, which an open
    axis cannot say.
    """
    left = torch.arange(0, rows.shape[0], 2, device=rows.device)
    return rows[left], rows[left + 1]


def materialise(model: nn.Module, *, seed: int) -> None:
    """Give a skeleton its weights on the CPU, as BERT does: normal(0, `FRESH_STD`), LayerNorm at 1 and 0, biases at 0.

    The numbers come from a generator of their own, in the order of the parameters, so the same seed gives the same
    backbone whatever head follows it, and the global random state is neither read nor moved.

    Args:
        model: a model on the meta device; parameters that were shared stay shared.
        seed: of the generator.
    """
    _to_cpu(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, FRESH_STD, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def _to_cpu(model: nn.Module) -> None:
    # Module.to_empty makes one tensor for each owner and so cuts ties; this keeps one for each shared parameter.
    new: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in new:
                new[parameter] = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
            setattr(module, name, new[parameter])
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = _fresh_buffer(name, buffer)


def _fresh_buffer(name: str, buffer: Tensor) -> Tensor:
    """Fill a buffer as its module starts: positions count up, a variance is 1, all else (means, counts) 0."""
    if name == "position_ids":
        return torch.arange(buffer.shape[-1]).expand(buffer.shape).clone()
    return torch.full_like(buffer, 1 if name == "running_var" else 0, device="cpu")
