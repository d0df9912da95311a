"""PyTorch: a compiled model with its block-sparse layers, run as it is."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import torch

from vlcompress.devices import CPU, Compute, keep_precision
from vlcompress.models.base import scores_of
from vlcompress.models.registry import FAMILIES
from vlcompress.serve.tensors import Arrays, TensorSpec, numpy_datatype
from vlcompress.sparse.compile import Compiled, load_compiled
from vlcompress.sparse.runner import fast_answer

logger = logging.getLogger(__name__)


class TorchEngine:
    """A compiled model in PyTorch (see `vlcompress.serve.engines.base.Engine`)."""

    platform = "pytorch_vlcompress"
    backend = "torch"
    rows_apart = True
    example_sizes: Mapping[str, int]

    def __init__(self, folder: Path, *, threads: int, compute: Compute = CPU) -> None:
        """Load the artefact ``compiled/`` to where it will run.

        Args:
            folder: the artefact.
            threads: inside one execution.
            compute: where to compute, and in what.

        Raises:
            VlcompressError: not such an artefact, or a damaged one.
        """
        self._threads, self._local = threads, threading.local()
        self.provider = compute.device
        keep_precision(compute)
        self._compiled = load_compiled(folder, {name: family() for name, family in FAMILIES.items()}, compute)
        if self._compiled.notice is not None:
            logger.warning("%s", self._compiled.notice)
        compiled = self._compiled
        self._answer = fast_answer(compiled.family, compiled.model, compiled.head, compute)
        self.inputs, self.example_sizes = _inputs(self._compiled)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("logits", "FP32", _output_shape(compiled)),)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers in the order of the scores."""
        return self._compiled.head.labels

    def run(self, feeds: Arrays) -> Arrays:
        """Run the model."""
        if not hasattr(self._local, "set"):  # PyTorch keeps the number for each thread that calls it
            torch.set_num_threads(self._threads)
            self._local.set = True
        return {"logits": self._answer({name: torch.as_tensor(array) for name, array in feeds.items()}).numpy()}


def _output_shape(compiled: Compiled) -> tuple[int | str, ...]:
    """Describe the scores: a column for each label, or what the model makes of an example where it has no labels."""
    if compiled.head.labels:
        return "batch", len(compiled.head.labels)
    if compiled.head.kind == "region":
        return "batch", "regions"
    example = compiled.family.example_inputs(compiled.config, batch=2, text=3, regions=3, seed=0)
    return "batch", *scores_of(compiled.family, compiled.model, example).shape[1:]


def _inputs(compiled: Compiled) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """Describe the inputs by the family's own example of them; give also the example's sizes of named axes."""
    axes = compiled.family.dynamic_axes()
    example = compiled.family.example_inputs(compiled.config, batch=1, text=2, regions=2, seed=0)
    specs, sizes = [], {}
    for name, tensor in example.items():
        shape = tuple(axes[name].get(axis, size) for axis, size in enumerate(tensor.shape))
        limits = (0, int(compiled.config["vocab_size"])) if name == "input_ids" else (None, None)
        specs.append(TensorSpec(name, numpy_datatype(tensor.numpy().dtype), shape, *limits))
        sizes.update({axis: size for axis, size in zip(shape, tensor.shape, strict=True) if isinstance(axis, str)})
    return tuple(specs), sizes
