"""Single int8 products on this CPU: dense ones by well-kept libraries, beside blocks in the native kernel.

    python -m bench.onnx_int8_layers --out bench/results/onnx/int8_layers.json

Layers of LXMERT-base at batch 8 (20 words, 36 regions), one thread, everything of a layer in turn in one process. ONNX
Runtime rounds activations by one scale for all rows ("dense"), or by one for each row where standard operators do it
("dense, by rows"); torch's quantised linear (FBGEMM or oneDNN) by one for all. Needs `vlcompress native build`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.records import write_record
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.export.choose import one_layer
from vlcompress.export.native.library import Floats, round_weight
from vlcompress.export.runtime import session_from_bytes
from vlcompress.kernels.formats import BlockSparseWeight, pack_masked
from vlcompress.kernels.grouped import row_panels
from vlcompress.sparse.timing import Call, Effort, interleave

LAYERS = ((768, 768), (3072, 768), (768, 3072))
ROWS = (160, 288)
KEPT = {50: 0.5, 70: 0.3, 90: 0.1}
EFFORT = Effort(rounds=15, burst_s=0.03, warmup=2)


def blocks(weight: torch.Tensor, kept: float) -> BlockSparseWeight:
    """Keep a share of a weight's 16x1 blocks, at random."""
    outputs, inputs = weight.shape
    mask = torch.rand(outputs // 16, inputs, generator=torch.Generator().manual_seed(0)) < kept
    return pack_masked(weight, mask.repeat_interleave(16, dim=0), (16, 1))


def by_rows(weight: Floats) -> bytes:
    """Make a dense int8 product of x [rows, K] in standard operators, each row rounded by its own scale."""
    values, scales = round_weight(weight)
    constants = {
        "w": np.ascontiguousarray(values.T), "s": scales, "least": np.float32(1e-30), "steps": np.float32(127),
        "half": np.float32(128), "zero": np.uint8(128), "last": np.array([-1], dtype=np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a", "last"], ["m"], keepdims=1),
        helper.make_node("Max", ["m", "least"], ["safe"]),
        helper.make_node("Div", ["safe", "steps"], ["unit"]),
        helper.make_node("Div", ["x", "unit"], ["d"]),
        helper.make_node("Round", ["d"], ["r"]),
        helper.make_node("Add", ["r", "half"], ["h"]),
        helper.make_node("Cast", ["h"], ["q"], to=TensorProto.UINT8),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["g"]),
        helper.make_node("Mul", ["g", "unit"], ["y"]),
    ]
    outputs, inputs = weight.shape
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "rows", k]) for n, k in (("x", inputs), ("y", outputs))
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "rows", ends[:1], ends[1:], stored)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def calls(outputs: int, inputs: int, rows: int) -> dict[str, Call]:
    """Make every way to compute a layer."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) / inputs**0.5
    x = np.random.default_rng(0).standard_normal((1, rows, inputs), dtype=np.float32)
    whole = blocks(weight, 1.0)

    def bound(model: bytes) -> Call:
        session = session_from_bytes(model, threads=1, native="int8")
        return lambda: session.run(None, {"x": x})

    found = {
        "dense, float32": bound(one_layer(whole, None)),
        "dense": bound(one_layer(whole, None, int8=True)),
        "dense, by rows": bound(by_rows(weight.numpy())),
        "native, dense": bound(packed(whole)),
        **{f"native, 16x1 at {percent} %": bound(packed(blocks(weight, kept))) for percent, kept in KEPT.items()},
    }
    for engine in set(torch.backends.quantized.supported_engines) & {"fbgemm", "onednn"}:
        found[f"torch, {engine}"] = quantised(weight, torch.from_numpy(x), engine)
    return found


def packed(weight: BlockSparseWeight) -> bytes:
    """Make a packed node in int8."""
    return one_layer(weight, None, row_panels(weight), int8=True)


def quantised(weight: torch.Tensor, x: torch.Tensor, engine: str) -> Call:
    """Make torch's dynamically quantised linear."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight
    torch.backends.quantized.engine = engine
    module = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(linear), dtype=torch.qint8)

    def call() -> Any:
        torch.backends.quantized.engine = engine
        with torch.inference_mode():
            return module(x)

    return call


def measure(outputs: int, inputs: int, rows: int) -> Mapping[str, Any]:
    """Time a layer in every way, in turn."""
    bursts = interleave(calls(outputs, inputs, rows), EFFORT)
    return {
        name: {
            "us": 1e3 * latency(rounds, rows).p50_ms,
            "speedup": asdict(paired_ratio(bursts["dense, float32"], rounds)),
        }
        for name, rounds in bursts.items()
    }


def main() -> None:
    """Measure all layers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write the record")
    said = parser.parse_args()
    torch.set_num_threads(1)
    found = {f"{n}x{k}, {rows} rows": measure(n, k, rows) for n, k in LAYERS for rows in ROWS}
    for layer, row in found.items():
        print(
            layer, *(f"\n  {name:24} {one['us']:8.0f} us {one['speedup']['value']:6.2f}" for name, one in row.items())
        )
    if said.out:
        write_record(
            "python -m bench.onnx_int8_layers", {"threads": 1, "rounds": EFFORT.rounds, "layers": found}, said.out
        )


if __name__ == "__main__":
    main()
