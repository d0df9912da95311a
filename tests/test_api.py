"""`import vlcompress`: light by itself, and then models of one's own compiled, exported and opened."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import vlcompress
from tests.models.encoder.architectures import ENCODERS
from tests.training.small_bert import bert, inputs
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.sparse.timing import Effort

QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)
LIGHT = """
import sys, vlcompress
assert {"Pruner", "compile", "load"} <= set(dir(vlcompress))
heavy = {"torch", "transformers", "numpy", "onnx"} & set(sys.modules)
assert not heavy, heavy
assert vlcompress.VlcompressError.__module__ == "vlcompress.errors"
"""


def pruned(model: nn.Module, pattern: str = "neuron+head", sparsity: float = 0.5) -> dict[str, Tensor]:
    pruner = vlcompress.Pruner(model, pattern=pattern, schedule="oneshot", sparsity=sparsity)
    pruner.step()
    return dict(pruner.masks)


def test_importing_it_brings_nothing_heavy_along() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=60)


def test_every_name_that_it_offers_is_there() -> None:
    for name in vlcompress._PLACES:
        assert getattr(vlcompress, name).__module__ == f"vlcompress.{vlcompress._PLACES[name]}"
    with pytest.raises(AttributeError, match="module 'vlcompress' has no attribute 'prune_all'"):
        vlcompress.prune_all  # noqa: B018


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module, Any, Path]:
    """Make a masked model, what it was compiled to, the export's manifest and its folder."""
    model, folder = bert(), tmp_path_factory.mktemp("api") / "onnx"
    masks = pruned(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smaller, plan = vlcompress.compile(model, masks, inputs(), effort=QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert plan.max_abs_error < 1e-6
    return model, smaller, vlcompress.export_onnx(smaller, folder, inputs(), labels=["a", "b", "c"]), folder


def test_a_pruned_model_is_compiled_exported_and_opened(exported: tuple[nn.Module, nn.Module, Any, Path]) -> None:
    model, smaller, manifest, folder = exported
    assert sum(one.numel() for one in smaller.parameters()) < 0.9 * sum(one.numel() for one in model.parameters())
    expected = model(**inputs()).logits
    torch.testing.assert_close(smaller(**inputs()).logits, expected)
    assert manifest["parity"]["random shapes"]["max_rel_error"] < 1e-4
    assert [one["shape"] for one in manifest["inputs"]] == [["batch", "text"]] * 2
    opened = vlcompress.load(folder)
    torch.testing.assert_close(opened(inputs()), expected.detach(), atol=1e-5, rtol=1e-4)
    assert (folder / "labels.txt").read_text() == "a\nb\nc\n"


def test_blocks_are_found_in_the_masks_and_run_in_the_dtype_asked_for() -> None:
    model = bert()
    masks = pruned(model, "block:8x4", 0.7)
    smaller, plan = vlcompress.compile(
        model, masks, inputs(), dtype="bf16", backend="grouped", effort=QUICK, output=lambda found: found.logits
    )
    assert any(layer.block is not None and layer.block[0] % 8 == 0 for layer in plan.layers)
    assert next(smaller.parameters()).dtype == torch.bfloat16
    assert plan.computed_on["dtype"] == "bf16"


@pytest.mark.parametrize("name", ["clip", "siglip", "bridgetower", "dinov3", "distilbert"])
def test_models_of_transformers_are_compiled_as_they_are(name: str) -> None:
    kind, own = ENCODERS[name][1]()
    torch.manual_seed(0)
    model = kind(own)
    vlcompress.unfuse(model)
    ids = torch.randint(4, 50, (4, 7))
    ids[:, -1] = 3  # where CLIP pools
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pixels = {"pixel_values": torch.rand(4, 3, 32, 32)}
    given = {"dinov3": pixels, "distilbert": text}.get(name, text | pixels)
    output: Any = {"dinov3": "pooler_output", "bridgetower": "pooler_output"}.get(name, lambda found: found[0])
    if name == "clip":
        output = _both
    smaller, plan = vlcompress.compile(model, pruned(model), given, output=output, effort=QUICK)
    assert type(smaller) is kind
    assert any(len(units.kept) < units.units for units in plan.kept)


def _both(found: Any) -> Tensor:
    return torch.stack([found.text_embeds, found.image_embeds], dim=1)


def test_tensors_are_named_in_forwards_order_and_axes_as_they_are_told(tmp_path: Path) -> None:
    own = transformers.ViTConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1, image_size=16, patch_size=8
    )
    model = transformers.ViTModel(own)
    pixels = torch.rand(3, 3, 16, 16)
    smaller, plan = vlcompress.compile(model, pruned(model), pixels, output="pooler_output", effort=QUICK)
    assert plan.inputs == {"pixel_values": (3, 3, 16, 16)}
    manifest = vlcompress.export_onnx(smaller, tmp_path / "onnx", (pixels,), output="pooler_output", dynamic_axes={})
    assert [one["shape"] for one in manifest["inputs"]] == [["batch", 3, 16, 16]]
    with pytest.raises(VlcompressError, match="unknown input in dynamic_axes 'image'"):
        vlcompress.export_onnx(smaller, tmp_path / "no", pixels, dynamic_axes={"image": {2: "height"}})


def test_masks_that_do_not_fit_and_models_that_are_not_plain_are_refused() -> None:
    model, given = bert(), inputs()
    masks = pruned(model)
    first, mask = next(iter(masks.items()))
    other = {**masks, first: torch.ones(3, 3, dtype=torch.bool)}
    cases: list[tuple[nn.Module, dict[str, Tensor], Any, dict[str, Any], str]] = [
        (model, other, given, {}, f"mask of '{first}' (3, 3) does not fit this model"),
        (model, {**masks, "no.weight": mask}, given, {}, "mask of 'no.weight' (16, 16) does not fit this model"),
        (model, {first: mask.float()}, given, {}, f"mask of '{first}' is torch.float32: masks are torch.bool"),
        (bert(), masks, given, {}, "is not zero where its mask prunes it: the mask was not held"),
        (bert().half(), masks, given, {}, "is torch.float16 on cpu: give model.float().cpu()"),
        (model, masks, {}, {}, "example inputs are tensors with the batch first, and there are none"),
        (model, masks, {**given, "return_dict": True}, {}, "and 'return_dict' is bool"),
        (model, masks, given, {"output": "scores"}, "unknown output 'scores': allowed are logits"),
        (model, masks, given, {"dtype": "fp64"}, "unknown dtype 'fp64'"),
        (model, masks, given, {"device": "cuda:9"}, "device 'cuda:9'"),
        (model, masks, given, {"backend": "magic"}, "unknown backend 'magic'"),
    ]
    for model_, masks_, given_, said, message in cases:
        with pytest.raises(VlcompressError, match=re.escape(message)) as error:
            vlcompress.compile(model_, masks_, given_, **{"effort": QUICK, **said})
        assert "\n" not in str(error.value)


def test_a_forward_of_the_instance_is_accelerates_or_refused() -> None:
    model, given = bert(), inputs()
    masks, plain = pruned(model), model.forward
    model.forward = lambda **said: plain(**said)  # type: ignore[method-assign]
    with pytest.raises(VlcompressError, match="module 'BertForSequenceClassification' has a forward of its own"):
        vlcompress.compile(model, masks, given, effort=QUICK)
    model._original_forward = plain  # type: ignore[assignment]  # as accelerate marks its own
    smaller, _ = vlcompress.compile(model, masks, given, effort=QUICK)
    assert "forward" not in vars(smaller)
    assert "forward" in vars(model)


def test_several_outputs_and_no_name_are_refused_by_their_names() -> None:
    kind, own = ENCODERS["bert"][1]()
    with pytest.raises(VlcompressError, match="the model gives last_hidden_state, pooler_output: say which counts"):
        vlcompress.compile(model := kind(own), pruned(model), inputs(), effort=QUICK)


def test_a_file_that_answers_otherwise_is_not_opened(
    exported: tuple[nn.Module, nn.Module, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlcompress.export.samples.compare_scores", _far)
    with pytest.raises(VerificationError, match="answers otherwise here than where it was exported"):
        vlcompress.load(exported[3])


def _far(*_: Any) -> Any:
    from vlcompress.export.parity import Parity

    return Parity(1, 1.0, 1.0, 0.0)


def test_what_is_no_folder_of_ours_is_told(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"holds no ticket.json, plan.json or manifest.json: give a folder that"):
        vlcompress.load(tmp_path)
