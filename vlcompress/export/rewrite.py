"""Finding pruned linear layers in an exported graph, and writing them anew: packed nodes or plain operators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vlcompress.export.functions import (
    DOMAIN,
    MAX_BODIES,
    NAME,
    VERSION,
    Activation,
    Body,
    Panels,
    body_of,
    make_function,
    pack_panels,
    rebuilding,
)
from vlcompress.export.lowering import Constants, Form, Writer, lower, rank
from vlcompress.sparse.formats import Bsr, RowGroups, to_dense


@dataclass(frozen=True)
class Layer:
    """How one layer is to be written.

    Attributes:
        bsr: its weight, by whose content it is found.
        form: the row groups that a stock runtime multiplies; None for a dense MatMul.
        panels: what a packed node stores; None for standard operators. Without a form, the node's body rebuilds the
            dense weight.
    """

    bsr: Bsr
    form: Form | None
    panels: RowGroups | None = None


@dataclass(frozen=True)
class Site:
    """One use of a layer in a graph: MatMul or Gemm, the Add of its bias, and its activation or residual.

    Attributes:
        node: the product.
        bias: what is added, float [N]; None for nothing.
        activation: what follows the bias.
        residual: what is added where no activation follows, float [..., N]; None for nothing.
        nodes: all of them, first to last.
    """

    node: ir.Node
    bias: ir.Value | None
    activation: Activation
    residual: ir.Value | None
    nodes: tuple[ir.Node, ...]


@dataclass
class Rewriter:
    """Rewrites layers of one model, and keeps what they share.

    Attributes:
        model: changed in place.
        opset: of the bodies.
        constants: new initialisers by name.
        bodies: op type of each body in use.
    """

    model: ir.Model
    opset: int
    constants: dict[str, ir.Value] = field(default_factory=dict)
    bodies: dict[Body, str] = field(default_factory=dict)

    def apply(self, layers: Mapping[str, Layer]) -> int:
        """Rewrite every MatMul or Gemm whose weight is one of the layers'; weights are recognised by their content.

        Args:
            layers: by canonical weight name; exporters rename and transpose weights, so names do not find them.

        Returns:
            How many uses were rewritten (a shared weight counts once for each).
        """
        wanted = {name: layer for name, layer in layers.items() if layer.form is not None or layer.panels is not None}
        by_content = {_sample(to_dense(layer.bsr).T.numpy()): name for name, layer in wanted.items()}
        rewritten = 0
        for node in list(self.model.graph):
            weight = constant_weight(node)
            if weight is None:
                continue
            name = by_content.get(_sample(weight))
            if name is not None and np.array_equal(weight, to_dense(wanted[name].bsr).T.numpy()):
                rewritten += self._rewrite(node, name, wanted[name])
        for value in self.constants.values():
            self.model.graph.register_initializer(value)
        self._add_functions()
        return rewritten

    def _rewrite(self, node: ir.Node, name: str, layer: Layer) -> bool:
        if layer.panels is not None and (node.inputs[0] is not None):
            site = _site(node)
            body = self._body(layer, node.inputs[0], site)
            if body is not None:
                self._pack(site, name, layer.panels, body)
                return True
        if layer.form is None:
            return False
        self._expand(node, layer.form, name)
        return True

    def _body(self, layer: Layer, x: ir.Value, site: Site) -> Body | None:
        """Give the body of a packed layer, None if there are too many already."""
        assert layer.panels is not None
        ending = site.activation, site.residual is not None
        if layer.form is None:
            body = rebuilding(layer.panels, rank(x), *ending)
        else:
            body = body_of(layer.form, x, *ending)
        if body not in self.bodies:
            if len(self.bodies) == MAX_BODIES:
                return None
            self.bodies[body] = NAME if not self.bodies else f"{NAME}_{len(self.bodies)}"
        return body

    def _pack(self, site: Site, name: str, groups: RowGroups, body: Body) -> None:
        to, old = Writer(constants=self.constants), site.nodes[-1].outputs[0]
        outputs = groups.shape[0]
        bias = site.bias or to.constant(f"zeros.{outputs}", np.zeros(outputs, dtype=np.float32))
        inputs = [site.node.inputs[0], *self._panels(to, name, groups), bias]
        inputs += [site.residual] if site.residual is not None else []
        settings = {"N": outputs, "K": groups.shape[1], "h": body.height, "activation": body.activation}
        y = to.tape.op(self.bodies[body], inputs, settings, domain=DOMAIN, version=VERSION)
        replace_nodes(self.model.graph, site.nodes, to, old, y)

    def _panels(self, to: Writer, name: str, groups: RowGroups) -> list[ir.Value]:
        """Give W, I and P; made once for a layer that is used twice."""
        names = [f"{name}.{part}" for part in ("values", "columns", "starts")]
        if names[0] not in self.constants:
            panels: Panels = pack_panels(groups)
            to.constant(names[0], panels.values)
            to.constant(names[1], panels.columns)
            to.constant(names[2], panels.starts)
        return [self.constants[part] for part in names]

    def _expand(self, node: ir.Node, form: Form, name: str) -> None:
        x, to = node.inputs[0], Writer(constants=self.constants)
        assert x is not None, "MatMul and Gemm have a first input"
        y = lower(to, x, form.kind, form.access, Constants(to, form, name))
        if len(node.inputs) == 3:  # Gemm carries its bias
            y = to.op("Add", [y, node.inputs[2]])
        replace_nodes(self.model.graph, (node,), to, node.outputs[0], y)

    def _add_functions(self) -> None:
        for body, name in self.bodies.items():
            function = make_function(body, name, self.opset)
            self.model.functions[function.identifier()] = function
        if self.bodies:
            self.model.opset_imports[DOMAIN] = VERSION


def replace_nodes(graph: ir.Graph, nodes: tuple[ir.Node, ...], to: Writer, old: ir.Value, new: ir.Value) -> None:
    """Put what `to` has written in place of nodes whose only result in use is `old`."""
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, nodes[-1], nodes, to.tape.nodes, [old], [new])


def _site(node: ir.Node) -> Site:
    """Follow a product to its bias and activation or residual, as far as nothing else reads what lies between."""
    nodes, bias = [node], node.inputs[2] if len(node.inputs) == 3 else None
    if bias is None:
        bias = _take_added(nodes, _is_bias)
    following = _only_reader(nodes[-1])
    activation = _activation(following)
    if following is not None and activation != "none":
        nodes.append(following)
    residual = _take_added(nodes, _is_residual) if activation == "none" else None
    return Site(node, bias, activation, residual, tuple(nodes))


def _take_added(nodes: list[ir.Node], fits: Callable[[ir.Value, ir.Value], bool]) -> ir.Value | None:
    """Take in the Add that alone reads the last node, and give what it adds; None if that does not fit."""
    node, result = _only_reader(nodes[-1]), nodes[-1].outputs[0]
    if node is None or node.op_type != "Add":
        return None
    others = [value for value in node.inputs if value is not result]
    if len(others) != 1 or others[0] is None or not fits(others[0], result):
        return None
    nodes.append(node)
    return others[0]


def _only_reader(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _is_bias(value: ir.Value, product: ir.Value) -> bool:
    assert product.shape is not None
    return value.is_initializer() and value.shape is not None and list(value.shape) == [product.shape[-1]]


def _is_residual(value: ir.Value, product: ir.Value) -> bool:
    """Tell whether a value surely has the product's shape: nothing may be broadcast."""
    shape = value.shape
    if value.is_initializer() or shape is None or product.shape is None or value.dtype != product.dtype:
        return False
    known = all(isinstance(size, int) or size.value is not None for size in shape)
    return known and shape == product.shape


def _activation(node: ir.Node | None) -> Activation:
    if node is None:
        return "none"
    if node.op_type == "Gelu":
        return "gelu_tanh" if node.attributes.get_string("approximate", "none") == "tanh" else "gelu"
    return "relu" if node.op_type == "Relu" else "none"


def constant_weight(node: ir.Node) -> npt.NDArray[np.generic] | None:
    """Give the weight of y = x W as [K, N], or None if the node is no such product with a constant."""
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is None:
        return None
    value = node.inputs[1]
    if not value.is_initializer() or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    weight = value.const_value.numpy()
    if node.op_type == "MatMul":
        return weight
    if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_int("transA", False):
        return None
    return weight.T if node.attributes.get_int("transB", False) else weight


def _sample(weight_KN: npt.NDArray[np.generic]) -> tuple[tuple[int, ...], bytes]:
    """Give what tells weights apart, nearly always: a few outputs, since hashing all of them takes seconds."""
    return weight_KN.shape, weight_KN[:, :: max(1, weight_KN.shape[1] // 16)].tobytes()
