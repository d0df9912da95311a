"""Export end to end: a checked, clean, dynamic file, or none at all."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from vlcompress.artefacts import load_tensors, unseal
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export import onnx as exporter
from vlcompress.export.choose import Chooser
from vlcompress.export.lowering import forms
from vlcompress.export.onnx import export_onnx
from vlcompress.export.runtime import open_session
from vlcompress.export.trace import quiet
from vlcompress.export.verify import parity
from vlcompress.results import to_json
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.compile import compile_model, scores
from vlcompress.sparse.timing import Effort, Timing

TicketOf = Callable[..., Any]
QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)
BLOCK = (16, 16)


def always_sparse(_: object, name: str, bsr: Any, rows: int) -> tuple[LayerChoice, Any]:
    """Choose the first form, untimed."""
    found = forms(bsr, rows) if rows else {}
    return next(
        ((LayerChoice(key, "forced"), form) for key, form in found.items()), (LayerChoice.untested("none"), None)
    )


@pytest.fixture
def compiled(ticket_of: TicketOf) -> Any:
    """Return a ticket and its compiled model."""
    ticket = ticket_of(BLOCK, 0.4)
    model, _ = compile_model(ticket.family, ticket.model, ticket.masks, BLOCK, inputs=ticket.inputs, effort=QUICK)
    return ticket, model


def export(ticket: Any, model: torch.nn.Module, folder: Path, **options: Any) -> Any:
    """Export with hardly any measuring."""
    return export_onnx(
        ticket.family, model, folder, [ticket.inputs], config=ticket.config, head=ticket.head, effort=QUICK, **options
    )


@pytest.fixture
def lowered_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every choice sparse and the lowered graph the faster one."""
    monkeypatch.setattr(Chooser, "choose", always_sparse)
    times = {"dense": 2.0, "lowered": 1.0, "lowered, fused": 1.5}
    monkeypatch.setattr(
        exporter, "compare", lambda calls, effort: {name: Timing(times.get(name[:-3], 1.0), 0.0, 1) for name in calls}
    )


def test_a_compiled_model_becomes_a_checked_and_clean_file(
    compiled: Any, lowered_only: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ticket, model = compiled
    manifest = export(ticket, model, tmp_path / "onnx", origin={"task": "vqa"})
    assert capfd.readouterr() == ("", "")
    assert to_json(manifest).items() <= unseal(tmp_path / "onnx", "manifest.json").items()
    assert (tmp_path / "onnx" / "labels.txt").read_text().splitlines() == list(ticket.head.labels)
    data = (tmp_path / "onnx" / "model.onnx").read_bytes()
    for trace_of_this_machine in (
        b"site-packages",
        b"/home",
        b"/root",
        b"/tmp",
        b"stack_trace",
        b"pkg.torch",
        b"namespace",
    ):
        assert trace_of_this_machine not in data
    graph = onnx.load_from_string(data).graph
    constants = {tensor.name for tensor in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in constants]
    assert [node.op_type for node in graph.node].count("Softmax") == 4  # the attentions that answers depend on
    assert [node.op_type for node in graph.node].count("Mul") <= 4 + 1  # each is scaled once, and the mask is
    dims = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input}
    assert dims["input_ids"] == ["batch", "text"]
    assert dims["visual_feats"] == ["batch", "regions", 16]
    assert manifest.padding == {"regions": (5,), "text": (6,)}
    assert manifest.parity["samples"].answer_agreement == 1.0
    assert manifest.bytes.pruned_layers.packed < 0.6 * manifest.bytes.pruned_layers.dense
    assert any(layer.form != "dense" for layer in manifest.layers)
    packed = [node for node in graph.node if node.domain == "vlcompress"]
    shapes = {value.name: [d.dim_param for d in value.type.tensor_type.shape.dim[:-1]] for value in graph.value_info}
    assert packed  # named sizes: a runtime may otherwise take two unknown ones for equal and share their memory
    assert all(shapes[node.output[0]][0] == "batch" for node in packed)
    assert not graph.sparse_initializer  # made dense when it is read, and refused by the full check
    session = open_session(tmp_path / "onnx" / "model.onnx", threads=1)
    other = ticket.family.example_inputs(ticket.config, batch=4, text=3, regions=8, seed=9)
    assert parity(ticket.family, ticket.model, session, [other]).passed  # against the masked model itself


def test_a_file_that_disagrees_never_appears(
    compiled: Any, lowered_only: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, model = compiled
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.answer_head.logit_fc[0].weight.mul_(1.5)
    right = exporter.trace
    monkeypatch.setattr(exporter, "trace", lambda family, _, *rest, **options: right(family, wrong, *rest, **options))
    with pytest.raises(VerificationError, match="does not compute what the PyTorch model does"):
        export(ticket, model, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["onnx.failed"]
    worst = load_tensors(tmp_path / "onnx.failed" / "worst.safetensors")
    assert set(worst) == {*ticket.inputs, "expected", "got"}
    assert not torch.allclose(worst["expected"], worst["got"], rtol=1e-3)
    assert len(worst["input_ids"]) == 1


def test_a_plain_model_is_exported_dense(ticket_of: TicketOf, tmp_path: Path) -> None:
    ticket = ticket_of((1, 1), 0.5)
    manifest = export(ticket, ticket.model, tmp_path / "onnx", buckets={"text": [8, 16]})
    assert manifest.layers == ()
    assert manifest.speed.picked == "dense"
    assert manifest.padding["text"] == (8, 16)
    assert set(manifest.speed.timings) == {"dense", "dense, fused"}


def test_nan_weights_and_missing_samples_are_refused_at_once(ticket_of: TicketOf, tmp_path: Path) -> None:
    ticket = ticket_of((1, 1), 0.5)
    with pytest.raises(VlcompressError, match="no samples"):
        export_onnx(ticket.family, ticket.model, tmp_path / "onnx", [], config=ticket.config, head=ticket.head)
    with torch.no_grad():
        ticket.model.lxmert.pooler.dense.weight[0, 0] = float("nan")
    with pytest.raises(VlcompressError, match=r"'lxmert\.pooler\.dense\.weight' holds NaN"):
        export(ticket, ticket.model, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []
    assert not torch.isfinite(scores(ticket.family, ticket.model, ticket.inputs)).all()


def test_two_pictures_a_text_are_refused_at_once(ticket_of: TicketOf, tmp_path: Path) -> None:
    ticket = ticket_of(BLOCK, 1.0)
    ticket.inputs["visual_feats"] = ticket.inputs["visual_feats"].repeat_interleave(2, dim=0)
    with pytest.raises(VlcompressError, match=r"different numbers of rows .*visual_feats 6"):
        export(ticket, ticket.model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_silence_ends_with_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("hidden")
        logging.getLogger("hidden").error("hidden")
    print("seen")
    assert capsys.readouterr().out == "seen\n"
    assert logging.root.manager.disable == logging.NOTSET


def test_opening_what_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no ONNX model at"):
        open_session(tmp_path / "model.onnx", threads=1)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(VlcompressError, match="ONNX Runtime cannot read"):
        open_session(tmp_path / "model.onnx", threads=1)
