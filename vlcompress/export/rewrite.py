"""Replacing the nodes that packed layers emit by what a runtime executes: packed nodes, row groups or dense products.

A packed layer (`vlcompress.kernels.linear`) is traced as one node that carries its canonical weight name. Here each of
them becomes a `BlockSparseLinear` function that takes in bias, activation and residual, or plain standard operators.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vlcompress.export.functions import (
    DOMAIN,
    MAX_BODIES,
    NAME,
    NAME_INT8,
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
from vlcompress.kernels.backends import SparseWeight, dense
from vlcompress.kernels.grouped import RowGroups
from vlcompress.kernels.linear import EMITTED


@dataclass(frozen=True)
class WrittenLayer:
    """How one layer is to be written.

    Attributes:
        weight: what it stores.
        form: the row groups that a stock runtime multiplies; None for a dense MatMul.
        panels: what a packed node stores; None for standard operators. Without a form, the node's body rebuilds the
            dense weight.
    """

    weight: SparseWeight
    form: Form | None = None
    panels: RowGroups | None = None


@dataclass(frozen=True)
class Site:
    """One use of a layer in a graph: the node that it emitted, and the activation or residual that follow.

    Attributes:
        node: the emitted node.
        bias: its bias, float [N]; None for nothing.
        activation: what follows.
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
    """Replaces the emitted nodes of one model, and keeps what the layers share.

    Attributes:
        model: changed in place.
        opset: of the bodies.
        int8: write packed nodes in int8.
        constants: new initialisers by name.
        stored: W, I, P and S of packed layers.
        bodies: op type of each body in use.
    """

    model: ir.Model
    opset: int
    int8: bool = False
    constants: dict[str, ir.Value] = field(default_factory=dict)
    stored: dict[str, list[ir.Value]] = field(default_factory=dict)
    bodies: dict[Body, str] = field(default_factory=dict)

    def apply(self, layers: Mapping[str, WrittenLayer]) -> int:
        """Replace every emitted node.

        Args:
            layers: by canonical weight name; all that the model holds.

        Returns:
            How many nodes became something else than a dense product (a shared weight counts once for each use).
        """
        sparse = 0
        for node in list(self.model.graph):
            if is_emitted(node):
                sparse += self._replace(node, node.attributes["weight"].as_string(), layers)
        for value in self.constants.values():
            self.model.graph.register_initializer(value)
        self._add_functions()
        return sparse

    def _replace(self, node: ir.Node, name: str, layers: Mapping[str, WrittenLayer]) -> bool:
        layer = layers[name]
        if layer.panels is not None:
            site = _site(node)
            body = self._body(layer, _x(node), site)
            if body is not None:
                self._pack(site, name, layer.panels, body)
                return True
        self._expand(node, name, layer)
        return layer.form is not None

    def _body(self, layer: WrittenLayer, x: ir.Value, site: Site) -> Body | None:
        """Choose the body of a packed layer, None if there are too many already."""
        assert layer.panels is not None
        ending = site.activation, site.residual is not None, self.int8
        if layer.form is None:
            body = rebuilding(layer.panels, rank(x), *ending)
        else:
            body = body_of(layer.form, x, *ending)
        if body not in self.bodies:
            if len(self.bodies) == MAX_BODIES:
                return None
            name = NAME_INT8 if self.int8 else NAME
            self.bodies[body] = name if not self.bodies else f"{name}_{len(self.bodies)}"
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
        """Store W, I and P, once for a layer that is used twice; in int8 also S, and all of it for each use.

        On processors that need it, ONNX Runtime makes each product's weight unsigned, and fails where two share one.
        """
        parts = ("values", "columns", "starts", "scales") if self.int8 else ("values", "columns", "starts")
        if self.int8:
            name = next(one for at in count(1) if (one := name if at == 1 else f"{name}.{at}") not in self.stored)
        if name not in self.stored:
            panels: Panels = pack_panels(groups, int8=self.int8)
            self.stored[name] = [to.constant(f"{name}.{part}", getattr(panels, part)) for part in parts]
        return self.stored[name]

    def _expand(self, node: ir.Node, name: str, layer: WrittenLayer) -> None:
        """Write standard operators in place of a node: row groups, or the dense product."""
        x, bias, to, old = _x(node), _bias(node), Writer(constants=self.constants), node.outputs[0]
        if layer.form is not None:
            y = lower(to, x, layer.form.kind, layer.form.access, Constants(to, layer.form, name))
        else:
            y = to.op("MatMul", [x, self._dense(to, x, name, layer.weight)])
        if bias is not None:
            y.shape, y.type = old.shape, old.type
            y = to.op("Add", [y, bias])
        replace_nodes(self.model.graph, (node,), to, old, y)

    def _dense(self, to: Writer, x: ir.Value, name: str, weight: SparseWeight) -> ir.Value:
        """Store the full weight as [K, N], in the type of x, once for a layer that is used twice."""
        if name in self.constants:
            return self.constants[name]
        assert x.dtype is not None, "the exporter gives every activation a type"
        return to.constant(name, dense(weight).T.contiguous().numpy().astype(x.dtype.numpy(), copy=False))

    def _add_functions(self) -> None:
        self.model.opset_imports.pop(DOMAIN, None)  # of the nodes that are gone
        for body, name in self.bodies.items():
            function = make_function(body, name, self.opset)
            self.model.functions[function.identifier()] = function
        if self.bodies:
            self.model.opset_imports[DOMAIN] = VERSION


def replace_nodes(graph: ir.Graph, nodes: tuple[ir.Node, ...], to: Writer, old: ir.Value, new: ir.Value) -> None:
    """Put what `to` has written in place of nodes whose only result in use is `old`."""
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, nodes[-1], nodes, to.tape.nodes, [old], [new])


def emitted(name: str, x: ir.Value, outputs: int) -> ir.Node:
    """Make the node of a layer without a bias, as tracing it does; what it stores is left out, since nobody reads it.

    Args:
        name: canonical weight name.
        x: float [..., K].
        outputs: N.
    """
    domain, kind = EMITTED.split("::")
    node = ir.node(kind, [x], {"weight": name, "bias": 0}, domain=domain)
    assert x.shape is not None, "a layer's input has a shape"
    node.outputs[0].shape, node.outputs[0].type = ir.Shape((*x.shape[:-1], outputs)), x.type
    return node


def holds_packed_nodes(path: Path) -> bool:
    """Tell whether a file whose weights lie apart has a node that the native kernel takes."""
    return any(node.domain == DOMAIN for node in ir.load(path).graph)


def is_emitted(node: ir.Node) -> bool:
    """Tell whether a node stands for a packed layer."""
    return f"{node.domain}::{node.op_type}" == EMITTED


def _x(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None, "an emitted node has an input"
    return x


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[-1] if node.attributes["bias"].as_int() else None


def _site(node: ir.Node) -> Site:
    """Follow a node to its activation or residual, as far as nothing else reads what lies between."""
    nodes = [node]
    following = _only_reader(node)
    activation = _activation(following)
    if following is not None and activation != "none":
        nodes.append(following)
    residual = _take_residual(nodes) if activation == "none" else None
    return Site(node, _bias(node), activation, residual, tuple(nodes))


def _take_residual(nodes: list[ir.Node]) -> ir.Value | None:
    """Take in the Add that alone reads the last node, and return what it adds; None if that does not fit."""
    node, result = _only_reader(nodes[-1]), nodes[-1].outputs[0]
    if node is None or node.op_type != "Add":
        return None
    others = [value for value in node.inputs if value is not result]
    if len(others) != 1 or others[0] is None or not _is_residual(others[0], result):
        return None
    nodes.append(node)
    return others[0]


def _only_reader(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


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
