"""What an exported folder's ``manifest.json`` says, as types; its files are sealed beside it (`vlcompress.artefacts`).

A server reads the file as it is (`vlcompress.export.runtime`): it has no torch, and takes files of other versions too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlcompress.artefacts import unseal
from vlcompress.export.parity import Parity, Precision
from vlcompress.export.verification import TaskScore
from vlcompress.kernels.formats import Block
from vlcompress.results import absent, parse
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.timing import Timing

FILE = "manifest.json"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its type as ONNX Runtime names it, and sizes, with names for the axes that are free."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ExportedLayer:
    """A packed layer: its weight [N, K], the rows that it was timed on, what was chosen, and what the file has."""

    name: str
    shape: tuple[int, ...]
    block: Block | None
    sparsity: float
    rows: int
    form: str
    choice: LayerChoice


@dataclass(frozen=True)
class GraphSpeed:
    """Whole graphs side by side.

    Attributes:
        picked: "lowered" or "dense".
        timings: by graph, with and without the optimizers that may be switched off.
        disabled_optimizers: what to switch off in ONNX Runtime.
        inputs: shapes that were timed.
        threads: of ONNX Runtime.
    """

    picked: str
    timings: Mapping[str, Timing]
    disabled_optimizers: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    threads: int


@dataclass(frozen=True)
class NativeSpeed:
    """The file with the native kernel ("float32", or "int8" in a file of that precision) and without ("off").

    Attributes:
        parity: with the kernel.
        timings: by "off" and what the kernel computes in.
        task_score: with the kernel, in lower precision.
    """

    parity: Mapping[str, Parity]
    timings: Mapping[str, Timing]
    task_score: TaskScore | None = None


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of the packed layers: dense, packed (values and indices), and the masked dense weights zipped."""

    dense: int
    packed: int
    zipped_masked: int


@dataclass(frozen=True)
class ExportBytes:
    """Bytes of the file, of the same weights written dense, and of the layers that are packed.

    Attributes:
        unpruned: of the whole model's weights in float32, before anything was pruned; 0 in earlier manifests
            and where only what is left was known.
    """

    model: int
    dense: int
    pruned_layers: LayerBytes
    unpruned: int = 0


@dataclass(frozen=True, kw_only=True)
class ExportManifest:
    """``manifest.json``.

    Attributes:
        recipe_sha256, vlcompress, task: where it comes from; not there for a dense model.
        family: the model's.
        padding: sizes to which a server pads each axis.
        expanded: whether packed nodes were left out.
        layers: every packed layer.
        parity: with the PyTorch model, by kind of input.
        task_score: in lower precision.
        native: None where the native kernel is not built, or has no node to take.
    """

    recipe_sha256: str | None = absent()
    vlcompress: str | None = absent()
    task: str | None = absent()
    family: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    padding: Mapping[str, tuple[int, ...]]
    opset: int
    ir_version: int
    precision: Precision
    provider: str
    expanded: bool
    layers: tuple[ExportedLayer, ...]
    parity: Mapping[str, Parity]
    task_score: TaskScore | None
    speed: GraphSpeed
    native: NativeSpeed | None
    bytes: ExportBytes


def load_manifest(folder: Path) -> ExportManifest:
    """Read an exported folder's manifest, every file that it seals checked.

    Raises:
        VlcompressError: no such folder, an altered file, or a manifest that this version does not read.
    """
    return parse(ExportManifest, unseal(folder, FILE), folder / FILE)
