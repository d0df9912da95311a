"""Calibration: what a few examples, whose labels are not looked at, show of a trained model's weights.

*Moments* of what goes into each linear layer are what the layers are repaired by (`vlcompress.pruning.repair`).

*Wanda* is |w| times the norm of the input that it is multiplied by (Sun et al., ICLR 2024), over the norm of the
layer's output, so that layers compare; within a row the division changes nothing.

*Fisher* is w² E[g²], g the derivative by w of the logits along a random direction: how far the logits move, to second
order and one weight at a time, when w goes. It is the diagonal of the Gauss-Newton matrix of their squared error
(LeCun et al., 1990, with the model's own answers in place of labels), each logit counting alike.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, inputs_for
from vlcompress.models.objective import Objective
from vlcompress.pruning.criterion import Saliencies
from vlcompress.pruning.repair import Moments

EXAMPLES = 256
"""Examples to calibrate on, one at a time, so that padding does not count."""

SEED = 0
"""Draws the examples: every model and every criterion sees the same."""

GATHERED = 1024
"""Rows that wait to be multiplied at once: a product of few rows is less work than writing its [K, K] result."""


Examples = Iterable[Mapping[str, Tensor]]
"""The inputs of one example after another, each a batch of one."""


def drawn(objective: Objective) -> Iterator[Mapping[str, Tensor]]:
    """Draw `EXAMPLES` of an objective, always the same ones."""
    rng = torch.Generator().manual_seed(SEED)
    for index in torch.randperm(len(objective), generator=rng)[:EXAMPLES].tolist():
        yield objective.batch([index], rng).inputs


@torch.no_grad()
def moments(model: nn.Module, family: Family, examples: Examples, names: Iterable[str]) -> dict[str, Moments]:
    """Gather the moments of what goes into linear layers, by their weights' names; 0 where nothing does.

    Args:
        model: in eval mode, on any device.
        family: of the model.
        examples: see `drawn`.
        names: of the layers' weights.

    Raises:
        VlcompressError: a weight of something else than a linear layer.
    """
    with watched_inputs(model, names) as sums:
        for _ in _logits(model, family, examples):
            pass
    return sums.moments()


@contextmanager
def watched_inputs(model: nn.Module, names: Iterable[str]) -> Iterator["InputSums"]:
    """Sum up, inside the block, what goes into linear layers (see `moments`), whatever runs the model."""
    sums = InputSums({name: _linear(model, name) for name in names})
    try:
        yield sums
    finally:
        sums.close()


def wanda(model: nn.Module, family: Family, examples: Examples, names: Sequence[str]) -> Saliencies:
    """Compute Wanda's scores, each in the shape of its weight (arguments as of `moments`)."""
    return wanda_of(model, moments(model, family, examples, names))


def wanda_of(model: nn.Module, of: Mapping[str, Moments]) -> Saliencies:
    """Compute Wanda's scores of a model from the moments of its layers' inputs, on the model's device or on the CPU."""
    parameters = dict(model.named_parameters())
    return {name: _wanda(parameters[name].detach().to(one.mean.device), one) for name, one in of.items()}


def fisher(model: nn.Module, family: Family, examples: Examples, names: Sequence[str]) -> Saliencies:
    """Sum up w² g² over the examples, in the shape of each weight (arguments as of `moments`)."""
    parameters = dict(model.named_parameters())
    weights = [parameters[name] for name in names]
    sums = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    rng = torch.Generator().manual_seed(SEED)
    for logits in _logits(model, family, examples):
        direction = torch.randn(logits.shape, generator=rng).to(logits.device)
        slopes = torch.autograd.grad((logits * direction).sum(), weights, allow_unused=True)
        for total, weight, slope in zip(sums, weights, slopes, strict=True):
            if slope is not None:
                total.add_((weight.detach() * slope).square())
    return {name: total.cpu() for name, total in zip(names, sums, strict=True)}


SCORES: Mapping[str, Callable[[nn.Module, Family, Examples, Sequence[str]], Saliencies]] = {
    "wanda": wanda,
    "fisher": fisher,
}
"""What the calibrated criteria rank by."""


def _logits(model: nn.Module, family: Family, examples: Examples) -> Iterator[Tensor]:
    return (family.logits(model, inputs_for(model, inputs)) for inputs in examples)


def _wanda(weight: Tensor, of: Moments) -> Tensor:
    output = (weight @ of.second * weight).sum()
    share = of.second.diagonal() / output.clamp(min=torch.finfo(torch.float32).tiny)
    return (weight.abs() * share.sqrt()).cpu()


class InputSums:
    """Running sums of the inputs of linear layers, by the weights' names."""

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        products = _Products()
        self._sums = {name: _Sums(layer, products) for name, layer in layers.items()}
        self._hooks = [one.layer.register_forward_pre_hook(one.add) for one in self._sums.values()]

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def moments(self) -> dict[str, Moments]:
        """Give the moments of what has gone in."""
        return {name: one.moments() for name, one in self._sums.items()}


class _Products:
    """Column sums [K] and products [K, K] of rows; the last are kept, since query, key and value see the same rows."""

    def __init__(self) -> None:
        self._of: Sequence[Tensor] = ()
        self._found: tuple[Tensor, Tensor] | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Sum up rows [..., K]; the same memory is the same rows, since what was summed up last is kept alive here."""
        if self._found is None or not _same_memory(inputs, self._of):
            rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs]).float()
            self._of, self._found = tuple(inputs), (rows.sum(dim=0), rows.T @ rows)
        return self._found


def _same_memory(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return [(x.data_ptr(), x.shape) for x in some] == [(x.data_ptr(), x.shape) for x in others]


class _Sums:
    """Running sums of the inputs of one layer, added up `GATHERED` rows at a time."""

    def __init__(self, layer: nn.Linear, products: _Products) -> None:
        self.layer, self._products = layer, products
        self._waiting: list[Tensor] = []
        self._rows = self._added = 0
        self._first = layer.weight.new_zeros(layer.in_features)
        self._second = layer.weight.new_zeros(layer.in_features, layer.in_features)

    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        self._waiting.append(x)
        self._rows += x.numel() // self.layer.in_features
        if self._rows - self._added >= GATHERED:
            self._add_up()

    @torch.no_grad()
    def _add_up(self) -> None:
        if self._waiting:
            first, second = self._products(self._waiting)
            self._first += first
            self._second += second
            self._waiting, self._added = [], self._rows

    def moments(self) -> Moments:
        self._add_up()
        rows = max(1, self._rows)
        return Moments(self._first / rows, self._second / rows, self.layer.bias is not None)


def check_linear(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse weights that have no moments.

    Raises:
        VlcompressError: a weight of something else than a linear layer.
    """
    for name in names:
        _linear(model, name)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(layer, nn.Linear):
        raise VlcompressError(
            f"weight '{name}' is of a {type(layer).__name__}, and moments of inputs are of linear layers alone: take "
            "criterion 'fisher', 'magnitude' or 'gradient', and train after pruning"
        )
    return layer
