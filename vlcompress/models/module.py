"""Any model as a family: layers found by structure, inputs like those it was shown, one of its outputs compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Config, Coupling, Family, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.encoder.anatomy import couplings_of, prunable_names
from vlcompress.models.encoder.unfused import fused_in

Output = str | Callable[[Any], Tensor]
"""Which output of a model counts: its name, or what makes a tensor [batch, ...] of all that `forward` gives."""

_LONG = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""transformers' inputs with one number a word: their second axis may vary."""


def named_inputs(model: nn.Module, given: Any) -> dict[str, Tensor]:
    """Name example inputs as `forward` does.

    Args:
        model: whose they are.
        given: tensors by name, one tensor, or several in the order of `forward`'s arguments.

    Raises:
        VlcompressError: nothing, or what is no tensor, by name.
    """
    import inspect

    if not isinstance(given, Mapping):
        tensors = (given,) if isinstance(given, Tensor) else tuple(given)
        given = dict(zip(inspect.signature(model.forward).parameters, tensors, strict=False))
    odd = [name for name, value in given.items() if not isinstance(value, Tensor)]
    if odd or not given:
        what = f"'{odd[0]}' is {type(given[odd[0]]).__name__}" if odd else "there are none"
        raise VlcompressError(f"example inputs are tensors with the batch first, and {what}: give a batch of real ones")
    return dict(given)


@contextmanager
def class_forward(model: nn.Module) -> Iterator[None]:
    """Let every module run its class's `forward` inside the block, as copies of it will.

    accelerate leaves mixed precision behind as a `forward` of the instance, so that float32 would be computed in less.

    Raises:
        VlcompressError: a `forward` of the instance that is not accelerate's.
    """
    patched = {name: one for name, one in model.named_modules() if "forward" in vars(one)}
    for name, one in patched.items():
        if "_original_forward" not in vars(one):
            raise VlcompressError(
                f"module '{name or type(one).__name__}' has a forward of its own, set on the instance, that no copy of "
                "the model follows: make it a method of its class"
            )
    forwards = {one: vars(one).pop("forward") for one in patched.values()}
    try:
        yield
    finally:
        for one, forward in forwards.items():
            vars(one)["forward"] = forward


class ModuleFamily(Family):
    """What the toolchain asks of a family, answered for one model of a user's own.

    Args:
        examples: one batch of real inputs by name, the batch first; {} where the model is only pruned.
        output: which output counts; None takes "logits" or the only one there is.
        axes: names of the axes that may vary, by input; None leaves the batch open, and the words of transformers'
            text inputs.
    """

    name = "module"
    title = "model"
    sizes: ClassVar[Mapping[str, Config]] = {}
    heads: ClassVar[tuple[HeadKind, ...]] = ()
    tasks = ()
    reads = "pixels"
    backbone_prefix = ""
    policies = ("blocks",)
    hub_name = ""
    longest_text = 0

    def __init__(
        self,
        examples: Mapping[str, Tensor] | None = None,
        output: Output | None = None,
        axes: Mapping[str, Mapping[int, str]] | None = None,
    ) -> None:
        self._examples, self._output, self._axes = dict(examples or {}), output, axes

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name the linears of attention and feed-forward layers in numbered blocks.

        Raises:
            VlcompressError: there are none, an attention is not understood, or one of them is tied.
        """
        _check_apart(model)
        names = prunable_names(model, couplings_of(model))
        if not names:
            raise VlcompressError(
                f"{type(model).__name__} has no prunable layers: no numbered block of it holds attention or a "
                "feed-forward layer; name the weights to prune by weights=[...], or give a transformer"
            )
        return Prunable.of(model, lambda name: "" if name in names else "in no attention or feed-forward layer", "")

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """See `Family.couplings`; found by structure (`vlcompress.models.encoder.anatomy`)."""
        return couplings_of(model)

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Take rows of the examples, from row `seed` on, repeated where they are few; words likewise."""
        sizes = {"batch": batch, "text": text}
        return {
            name: _resized(
                value, {axis: sizes[of] for axis, of in self.dynamic_axes()[name].items() if of in sizes}, seed
            )
            for name, value in self._examples.items()
        }

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """See `Family.dynamic_axes`.

        Raises:
            VlcompressError: axes of an input that there is not.
        """
        for name in self._axes or {}:
            if name not in self._examples:
                raise unknown("input in dynamic_axes", name, self._examples)
        return {name: {0: "batch", **self._named(name)} for name in self._examples}

    def _named(self, name: str) -> Mapping[int, str]:
        if self._axes is not None:
            return self._axes.get(name, {})
        return {1: "text"} if name in _LONG and self._examples[name].dim() > 1 else {}

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model and pick the output that counts."""
        return picked(model(**inputs), self._output)

    def preprocessing(self, config: Config) -> Config:
        """Say that it takes tensors: how they are made is its owner's."""
        return {"reads": "tensors", "longest_text": 0}

    def config(self, size: str, *, vocab_size: int, feature_dim: int) -> Config:
        """See `Family.config`: a model that exists has none here."""
        raise unknown("size", size, self.sizes)

    def construct(self, config: Config, head: Head) -> nn.Module:
        """See `Family.construct`: the model exists."""
        raise NotImplementedError

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """See `Family.load`: the model's owner loads it."""
        raise NotImplementedError

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """See `Family.collate`: the model's owner makes its batches."""
        raise NotImplementedError


def picked(found: Any, output: Output | None) -> Tensor:
    """Pick the output that counts of what a model gives.

    Raises:
        VlcompressError: no such output, or several and none is called "logits".
    """
    if callable(output):
        return output(found)
    if isinstance(found, Tensor):
        return found
    given = found.items() if isinstance(found, Mapping) else enumerate(found)
    tensors = {str(name): value for name, value in given if isinstance(value, Tensor)}
    if output is not None:
        if output not in tensors:
            raise unknown("output", output, tensors)
        return tensors[output]
    if "logits" not in tensors and len(tensors) != 1:
        raise VlcompressError(
            f"the model gives {', '.join(tensors) or 'no tensor'}: say which counts by output=NAME, or give a function "
            "that makes one tensor of what forward gives"
        )
    return tensors.get("logits", next(iter(tensors.values())))


def _check_apart(model: nn.Module) -> None:
    """Refuse attentions whose query, key and value are one matrix, while they can be taken apart."""
    fused = next(iter(fused_in(model)), None)
    if fused is not None:
        raise VlcompressError(
            f"attention '{fused}' keeps query, key and value in one matrix: call vlcompress.unfuse(model) first, which "
            "takes them apart in place, and make the optimizer after it"
        )


def _resized(value: Tensor, sizes: Mapping[int, int], seed: int) -> Tensor:
    for axis, size in sizes.items():
        start = seed if axis == 0 else 0
        value = value.index_select(axis, (torch.arange(size) + start) % value.shape[axis])
    return value
