"""One attention or one feed-forward layer as an ONNX graph, with some of its heads or neurons, to be timed alone.

Letters: B examples of T tokens that ask, S that are attended to; widths K in, N out; U units of D.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlcompress.export.target import IR_VERSION, OPSET

_HEADS = """
attention (float[B,T,K] x, float[B,S,C] attended) => (float[B,T,N] y) {
  query = MatMul (x, w_query)  query_ = Add (query, b_query)  query_split = Reshape (query_, split)
  query_heads = Transpose <perm = [0, 2, 1, 3]> (query_split)
  key = MatMul (attended, w_key)  key_ = Add (key, b_key)  key_split = Reshape (key_, split)
  key_heads = Transpose <perm = [0, 2, 3, 1]> (key_split)
  value = MatMul (attended, w_value)  value_ = Add (value, b_value)  value_split = Reshape (value_, split)
  value_heads = Transpose <perm = [0, 2, 1, 3]> (value_split)
  scaled = Mul (query_heads, scale)  scores = MatMul (scaled, key_heads)  weights = Softmax <axis = -1> (scores)
  context = MatMul (weights, value_heads)  turned = Transpose <perm = [0, 2, 1, 3]> (context)
  joined = Reshape (turned, join)
  out = MatMul (joined, w_out)  y = Add (out, b_out)
}
"""

_NEURONS = """
feed_forward (float[B,T,K] x) => (float[B,T,N] y) {
  up = MatMul (x, w_up)  up_ = Add (up, b_up)
  share = Div (up_, root_two)  erf = Erf (share)  above = Add (erf, one)  twice = Mul (up_, above)
  active = Mul (twice, half)
  out = MatMul (active, w_out)  y = Add (out, b_out)
}
"""


@dataclass(frozen=True)
class Block:
    """A layer's shape, which decides its time.

    Attributes:
        kind: of its units.
        unit_size: D; 1 for neurons.
        width: K, of what asks; of a feed-forward layer, of its input.
        attended_width: C, of what is attended to; K where nothing is.
        out: N.
        batch, asking, attended: B, T, S.
    """

    kind: Literal["head", "neuron"]
    unit_size: int
    width: int
    attended_width: int
    out: int
    batch: int
    asking: int
    attended: int

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """Draw activations: "x" [B, T, K], and for heads "attended" [B, S, C]."""
        random = np.random.default_rng(0)
        x = random.standard_normal((self.batch, self.asking, self.width), dtype=np.float32)
        if self.kind == "neuron":
            return {"x": x}
        shape = (self.batch, self.attended, self.attended_width)
        return {"x": x, "attended": random.standard_normal(shape, dtype=np.float32)}


def block_graph(block: Block, units: int) -> bytes:
    """Serialise the layer with so many units, as the exporter writes it, with random weights."""
    from onnx import numpy_helper, parser

    text = _HEADS if block.kind == "head" else _NEURONS
    model = parser.parse_model(f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>{text}')
    for name, values in _constants(block, units).items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    data: bytes = model.SerializeToString()
    return data


def _constants(block: Block, units: int) -> Mapping[str, NDArray[np.generic]]:
    random, inner = np.random.default_rng(0), units * block.unit_size

    def weight(rows: int, columns: int) -> NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(rows**-0.5)

    out = {"w_out": weight(inner, block.out), "b_out": np.zeros(block.out, np.float32)}
    if block.kind == "neuron":
        numbers = {"root_two": math.sqrt(2), "one": 1.0, "half": 0.5}
        scalars = {name: np.float32(value) for name, value in numbers.items()}
        return {"w_up": weight(block.width, inner), "b_up": np.zeros(inner, np.float32), **_arrays(scalars), **out}
    widths = {"query": block.width, "key": block.attended_width, "value": block.attended_width}
    products = {f"w_{name}": weight(width, inner) for name, width in widths.items()}
    biases = {f"b_{name}": np.zeros(inner, np.float32) for name in widths}
    shapes = {"split": np.array([0, 0, units, block.unit_size]), "join": np.array([0, 0, inner])}
    return {**products, **biases, **shapes, **_arrays({"scale": np.float32(block.unit_size**-0.5)}), **out}


def _arrays(scalars: Mapping[str, np.float32]) -> dict[str, NDArray[np.float32]]:
    return {name: np.array(value) for name, value in scalars.items()}
