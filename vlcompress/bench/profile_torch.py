"""A randomly pruned model in PyTorch: compiled for the device and dtype that it would run in, each form checked."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from vlcompress.bench.profile_onnx import Opened
from vlcompress.bench.random_masks import UNITS, masked, random_masks, side
from vlcompress.bench.variants import bind_torch
from vlcompress.devices import Compute
from vlcompress.models.base import Family, Head
from vlcompress.sparse.choice import candidates
from vlcompress.sparse.compile import AUTO, compile_model, sparse_layers
from vlcompress.sparse.runner import fast_answer
from vlcompress.sparse.timing import EFFORT, Effort

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class TorchSubject:
    """A model to prune at random.

    Attributes:
        family: of the model.
        model: in eval mode, on the CPU in float32.
        head: of the model.
        compute: where its forms run, and in what.
        inputs: that layers are tuned for.
        effort: how long to measure a layer.
    """

    family: Family
    model: nn.Module
    head: Head
    compute: Compute
    inputs: Inputs
    effort: Effort = EFFORT

    def dense(self) -> Opened:
        """Place the dense model."""
        return self._placed(copy.deepcopy(self.model), time.perf_counter())

    def forms(self, pattern: str, sparsity: float) -> dict[str, Opened]:
        """Prune at random, and compile: as measured for each layer, and with each backend that takes every layer.

        Raises:
            VlcompressError: a block that does not divide a weight.
            VerificationError: a form computes something else than the masked model.
        """
        masks = random_masks(self.family, self.model, pattern, sparsity)
        block = (1, 1) if pattern in UNITS else side(pattern)
        with masked(self.model, masks):
            chosen = self._compiled(masks, block, AUTO)
            forms = {f"PyTorch, {name}": self._compiled(masks, block, name) for name in self._forced(chosen.model)}
        return {"PyTorch, as compiled": chosen, **forms}

    def _forced(self, compiled: nn.Module) -> list[str]:
        """List the sparse backends that can take every packed layer, and are worth a try for one of them."""
        able = [candidates(layer.weight, self.compute)[0] for layer in sparse_layers(compiled).values()]
        everywhere = {name for names in able for name in names if all(name in other for other in able)}
        return sorted(everywhere | ({"grouped"} & {name for names in able for name in names}))

    def _compiled(self, masks: Mapping[str, Tensor], block: tuple[int, int], backend: str) -> Opened:
        started = time.perf_counter()
        model, _ = compile_model(
            self.family, self.model, masks, block,
            inputs=self.inputs, compute=self.compute, backend=backend, effort=self.effort,
        )  # fmt: skip
        return self._placed(model, started)

    def _placed(self, model: nn.Module, started: float) -> Opened:
        answer = fast_answer(self.family, model, self.head, self.compute)
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        return Opened(partial(bind_torch, model, answer), time.perf_counter() - started, nbytes, model)
