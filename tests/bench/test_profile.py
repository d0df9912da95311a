import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vlcompress.bench import profile_onnx
from vlcompress.bench.advice import advice
from vlcompress.bench.profile import ProfileConfig, profile
from vlcompress.bench.profile_onnx import SHRUNK, STANDARD
from vlcompress.bench.random_masks import POLICY, masked, random_masks
from vlcompress.cli.main import main
from vlcompress.devices import Compute
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.choose import Chooser
from vlcompress.export.rewrite import WrittenLayer, is_emitted
from vlcompress.export.runtime import open_session
from vlcompress.export.verify import parity
from vlcompress.kernels.formats import BlockSparseWeight, unpack
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.report.profile import profile_text
from vlcompress.results import ModelBatch, ModelPoint, ModelProfile, ProfileResult, Ratio, from_json
from vlcompress.sparse.timing import Effort

PATTERNS = ("neuron+head", "block:16x8")


def ask(**changes: Any) -> ProfileResult:
    asked = {"size": "tiny", "patterns": ("neuron+head",), "sparsities": (0.5,), "batches": (1,), **changes}
    return profile(ProfileConfig(**asked), lambda line: None)


@pytest.mark.nightly
def test_a_tiny_model_from_the_command_line() -> None:
    told = ["speed", "--size", "tiny", "--block", "neuron+head,unstructured,2:4", "--sparsity", "0.5", "--batch", "1,2"]
    result = CliRunner().invoke(main, [*told, "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert result.stderr.startswith("about ")
    assert {(row["pattern"], tuple(row["shape"])) for row in record["layers"]} == {
        (pattern, shape)
        for pattern in ("unstructured", "neuron+head", "2:4")
        for shape in ((32, 32), (64, 32), (32, 64))
    }
    (row,) = record["models"]  # single weights have no form that is faster
    assert (row["pattern"], row["form"]) == ("neuron+head", SHRUNK)
    (point,) = row["points"]
    assert set(point["batches"]) == {"1", "2"} == set(row["break_even"])
    found = point["batches"]["2"]["speedup"]
    assert found["low"] <= found["value"] <= found["high"]
    for pattern in ("unstructured", "2:4"):
        assert any(line.startswith(f"{pattern}: no form is faster than dense") for line in record["advice"])
    text = profile_text(from_json(ProfileResult, record))
    assert "smaller layers" in text
    assert "accuracy is not measured here" in text


@pytest.mark.nightly
def test_pytorch_is_measured_where_it_would_run_beside_its_own_dense_model() -> None:
    """On a machine without a GPU another dtype asks for it; float32 there leaves PyTorch out."""
    record = ask(patterns=("neuron+head", "block:16x8"), sparsities=(0.8,), compute=Compute("cpu", "bf16"))
    forms = {pattern: {row.form for row in record.models if row.pattern == pattern} for pattern in PATTERNS}
    assert forms["neuron+head"] == {SHRUNK, "PyTorch, as compiled"}
    assert {"PyTorch, as compiled", "PyTorch, grouped"} <= forms["block:16x8"]
    sizes = {row.form: row.points[0].bytes for row in record.models if row.pattern == "neuron+head"}
    assert sizes["PyTorch, as compiled"] < 0.6 * sizes[SHRUNK], "bfloat16 takes half the bytes"
    assert "PyTorch on cpu in bf16; ONNX Runtime on provider cpu" in profile_text(record)
    assert not any(row.form.startswith("PyTorch") for row in ask().models)


def test_a_form_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of other weights is found before anything is measured."""
    monkeypatch.setattr(profile_onnx.Chooser, "choose", always_rows)
    monkeypatch.setattr(profile_onnx, "native_layers", lambda packed: {})
    right = profile_onnx.OnnxSubject._replaced

    def doubled(layer: WrittenLayer) -> WrittenLayer:
        return WrittenLayer(profile_onnx.whole(2 * unpack(layer.weight)))  # type: ignore[arg-type]

    monkeypatch.setattr(
        profile_onnx.OnnxSubject,
        "_replaced",
        lambda self, layers, name: right(self, {key: doubled(layer) for key, layer in layers.items()}, name),
    )
    with pytest.raises(VerificationError, match=f"'{STANDARD}' of block:16x8 at 0.5 does not compute"):
        ask(patterns=("block:16x8",))


def test_zeros_are_in_the_right_places(tmp_path: Path) -> None:
    """Every prunable weight is a node of its own name, and replaced."""
    family = LxmertFamily()
    config = family.config("tiny", vocab_size=50, feature_dim=8)
    model = family.build(config, Head("answers", ("yes", "no")), seed=0).eval()
    rows = dict.fromkeys(family.prunable(model, POLICY).names, 8)
    subject = profile_onnx.OnnxSubject(family, config, model, tmp_path, Chooser(1, Effort(1, 0.0, 0)), rows)
    inputs = family.example_inputs(config, batch=2, text=3, regions=4, seed=0)
    with masked(model, random_masks(family, model, "block:16x1", 0.5)):
        path = subject._replaced({}, "zeros")
        assert parity(family, model, open_session(path, threads=1), [inputs]).passed
    emitted = {node.attributes["weight"].as_string() for node in subject.graph.graph if is_emitted(node)}
    assert emitted < set(rows), "all but what the answers do not depend on"


def always_rows(self: Any, name: str, bsr: BlockSparseWeight, rows: int) -> tuple[Any, Any]:
    from vlcompress.export.lowering import forms
    from vlcompress.sparse.choice import LayerChoice

    found = forms(bsr, rows)
    picked = next(iter(found))
    return LayerChoice(picked, "in a test", {}), found[picked]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "lxmrt"}, "unknown model 'lxmrt'.*did you mean 'lxmert'"),
        ({"size": "huge"}, "unknown size of lxmert 'huge'"),
        ({"sparsities": (1.0,)}, "sparsity 1 is out of range"),
        ({"batches": (0,)}, "batch size 0 is out of range"),
        ({"patterns": ("block:7x7",)}, "does not divide"),
        ({"patterns": ("2:4",), "sparsities": (0.5, 0.7)}, "sparsity 0.7 with pattern '2:4'.*give --sparsity 0.5"),
        ({"patterns": ("2:5",), "sparsities": (0.6,)}, "'2:5' does not divide"),
    ],
)
def test_what_cannot_be_asked(changes: Mapping[str, Any], why: str) -> None:
    with pytest.raises(VlcompressError, match=why):
        ask(**changes)


def test_lists_that_are_none() -> None:
    for told, why in [
        (["--sparsity", "half"], "--sparsity 'half' is not a list of numbers"),
        (["--batch", "1.5"], "--batch '1.5' is not a list of whole numbers"),
    ]:
        result = CliRunner().invoke(main, ["speed", "--size", "tiny", *told])
        assert result.exit_code == 2
        assert why in result.stderr


def row(pattern: str, form: str, value: float, low: float, even: float | None) -> ModelProfile:
    timed = ModelBatch(1.0, 1.0, 1.0, 0.0, 10, 1.0, dense_ms=value, speedup=Ratio(value, low, value + 0.1))
    return ModelProfile(pattern, form, (ModelPoint(0.7, 0.1, 100, {"1": timed}),), {"1": even})


def test_advice_ranks_and_says_when_dense_is_better() -> None:
    models = [row("block:32x32", STANDARD, 0.9, 0.8, None), row("neuron+head", SHRUNK, 2.7, 2.6, 0.05)]
    lines = advice(models, ProfileConfig(patterns=("block:32x32", "neuron+head"), sparsities=(0.7,), batches=(1,)))
    assert lines[0].startswith("neuron+head at 70 % (smaller layers), batch 1: 2.70x dense; faster than dense from 5 %")
    assert "32x32 at 70 % (standard operators), batch 1: no faster than dense" in lines[1]
    assert "faster than dense from" not in lines[1]
