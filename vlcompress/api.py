"""The functions of ``import vlcompress`` for models of one's own; each calls what the command of its name calls.

`Pruner`, `PrunerCallback` and `unfuse` stand beside them; docs/python.md shows all in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import Json, unseal
from vlcompress.devices import CPU, parse_compute
from vlcompress.errors import VlcompressError, unknown
from vlcompress.export.onnx import export_onnx as write_onnx
from vlcompress.export.runtime import open_session
from vlcompress.export.samples import check_samples, read_samples
from vlcompress.kernels.backends import BACKENDS
from vlcompress.models.base import Config, Family, Head, scores_of
from vlcompress.models.module import ModuleFamily, Output, class_forward, named_inputs
from vlcompress.models.registry import FAMILIES
from vlcompress.pruning.mask import Masks
from vlcompress.results import to_json
from vlcompress.sparse.compile import AUTO, compile_model, load_compiled
from vlcompress.sparse.plan import CompilePlan
from vlcompress.sparse.timing import EFFORT, Effort
from vlcompress.tickets.models import ticket_model
from vlcompress.tickets.ticket import load_ticket

LARGEST = (64, 64)
"""Sides of the largest block that a mask is looked through for; what divides them is looked for too."""


@dataclass(frozen=True)
class Opened:
    """A ticket or a compiled model read from its folder; `compile` and `export_onnx` take it by `of`.

    Attributes:
        model: in eval mode, where it was asked for.
        family: what the toolchain knows of it.
        config: its configuration.
        head: its task head, with the labels.
        masks: of a ticket, else None.
        plan: of a compiled model, else None.
    """

    model: nn.Module
    family: Family
    config: Config
    head: Head
    masks: Masks | None = None
    plan: CompilePlan | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Score a batch: float32 on the CPU, before any softmax."""
        return scores_of(self.family, self.model, inputs)


@dataclass(frozen=True)
class OpenedOnnx:
    """An exported model, opened in ONNX Runtime once the samples in its folder were answered as where it was exported.

    Attributes:
        session: `onnxruntime.InferenceSession`.
        manifest: what manifest.json says.
    """

    session: Any
    manifest: Json

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Score a batch: float32, before any softmax."""
        arrays = {one.name: inputs[one.name].numpy() for one in self.session.get_inputs()}
        return torch.from_numpy(self.session.run(["logits"], arrays)[0])


def compile(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example_inputs: Any,
    device: str = "cpu",
    dtype: str = "fp32",
    *,
    output: Output | None = None,
    backend: str = AUTO,
    threads: int = 1,
    effort: Effort = EFFORT,
    of: Opened | None = None,
) -> tuple[nn.Module, CompilePlan]:
    """Cut dead heads and neurons away, pack the rest, and run each layer in the form that is measured faster here.

    Args:
        model: weights with exact zeros where pruned, float32 on the CPU; put in eval mode, else unchanged.
        masks: bool by weight name, True = keep (`Pruner.masks`).
        example_inputs: one batch of real inputs: tensors by name, one tensor, or several in order; at the batch size
            and lengths to be fast at.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: one of `vlcompress.devices.DTYPES`; "fp32" and "bf16" on a CPU.
        output: which output is compared before and after: its name, or a function of what `forward` gives; None takes
            "logits", or the only one there is.
        backend: "auto" measures; a name takes it for every packed layer.
        threads: threads while measuring.
        effort: how long to measure each layer.
        of: what `load` gave the model by, which knows its layers; None finds them by structure.

    Returns:
        The compiled model, called as the model is, and the plan: for each layer its form, timings and why.

    Raises:
        VlcompressError: masks of other names or shapes; a weight that is not zero where it is pruned; no prunable
            layers, an attention that is not understood, tied weights; a device or dtype that is not there.
        VerificationError: the compiled model computes something else.
    """
    if backend not in (AUTO, *BACKENDS):
        raise unknown("backend", backend, (AUTO, *BACKENDS))
    compute = parse_compute(device, dtype)
    inputs = named_inputs(model, example_inputs)
    _check_plain(model)
    Masks(masks).check_held(model)
    family = ModuleFamily(inputs, output) if of is None else of.family
    with class_forward(model):
        return compile_model(
            family,
            model,
            dict(masks),
            LARGEST,
            inputs=inputs,
            threads=threads,
            compute=compute,
            backend=backend,
            effort=effort,
        )


def export_onnx(
    model: nn.Module,
    folder: str | Path,
    example_inputs: Any,
    *,
    output: Output | None = None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    labels: Sequence[str] = (),
    threads: int = 1,
    of: Opened | None = None,
) -> Json:
    """Write a folder with a standard model.onnx that was compared with the PyTorch model before it was written.

    Args:
        model: dense, masked or compiled, float32 on the CPU; put in eval mode.
        folder: where; replaced if it exists.
        example_inputs: as for `compile`; the file is compared on them, and on rows of them at other sizes.
        output: as for `compile`; the file has this one, named "logits".
        dynamic_axes: names of the axes that may vary beside the batch, by input: {"pixel_values": {2: "height"}}; None
            leaves the words of transformers' text inputs open.
        labels: of the scores in their order, for labels.txt.
        threads: threads of ONNX Runtime while measuring.
        of: what `load` gave the model by; its family then says outputs, axes and labels.

    Returns:
        The manifest: parity, timings, sizes.

    Raises:
        VlcompressError: weights elsewhere or of another dtype, NaN, inputs that do not fit, what the exporter cannot
            write.
        VerificationError: the file computes something else; nothing is written.
    """
    inputs = named_inputs(model, example_inputs)
    _check_plain(model)
    if of is None:
        of = Opened(model, ModuleFamily(inputs, output, dynamic_axes), {}, Head("embeddings", tuple(labels)))
    with class_forward(model):
        written = write_onnx(of.family, model, Path(folder), [inputs], config=of.config, head=of.head, threads=threads)
    manifest: Json = to_json(written)
    return manifest


def load(folder: str | Path, device: str = "cpu", dtype: str = "fp32") -> Opened | OpenedOnnx:
    """Open a folder that this project wrote: ticket/, compiled/, onnx/, or a run that holds them.

    Args:
        folder: where; of a run the compiled model, else the ticket.
        device, dtype: where a compiled model is to run; a ticket opens in float32 on the CPU, a file in ONNX Runtime's
            CPU provider.

    Raises:
        VlcompressError: no such folder, a damaged file, or a device that is not there.
        VerificationError: an ONNX file that answers otherwise than where it was exported.
    """
    folder = Path(folder)
    for name in ("compiled", "ticket"):
        if (folder / "run.json").is_file() and (folder / name).is_dir():
            return load(folder / name, device, dtype)
    if (folder / "plan.json").is_file():
        compute = parse_compute(device, dtype)
        opened = load_compiled(folder, {name: kind() for name, kind in FAMILIES.items()}, compute)
        return Opened(opened.model, opened.family, opened.config, opened.head, plan=opened.plan)
    if (folder / "ticket.json").is_file():
        _check_default(device, dtype, "a ticket opens in float32 on the CPU: move its model with .to()")
        ticket = load_ticket(folder)
        family, model = ticket_model(ticket)
        return Opened(model, family, ticket.config, ticket.head, masks=ticket.masks)
    if (folder / "manifest.json").is_file():
        _check_default(device, dtype, "an exported file opens in ONNX Runtime on the CPU: use `vlcompress serve`")
        return _open_onnx(folder)
    raise VlcompressError(
        f"'{folder}' holds no ticket.json, plan.json or manifest.json: give a folder that prune, compile or export "
        "wrote"
    )


def _check_plain(model: nn.Module) -> None:
    """Refuse what is not float32 on the CPU: the truth that everything else is compared with."""
    for name, weight in model.named_parameters():
        if (weight.dtype, weight.device.type) != (torch.float32, "cpu"):
            raise VlcompressError(
                f"weight '{name}' is {weight.dtype} on {weight.device}: give model.float().cpu(); device= and dtype= "
                "say where the result runs"
            )


def _check_default(device: str, dtype: str, why: str) -> None:
    if (device, dtype) != (CPU.device, CPU.dtype):
        raise VlcompressError(f"device '{device}' and dtype '{dtype}' have no effect here: {why}")


def _open_onnx(folder: Path) -> OpenedOnnx:
    manifest = unseal(folder, "manifest.json")
    opened = OpenedOnnx(open_session(folder / "model.onnx", threads=1, native="off"), manifest)
    samples = read_samples(folder)
    if samples is not None:
        names = {one.name for one in opened.session.get_inputs()}
        check_samples(
            samples,
            lambda inputs: opened.session.run(["logits"], {name: inputs[name] for name in names})[0],
            manifest["precision"],
            "cpu",
        )
    return opened
