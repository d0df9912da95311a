"""Compiled tickets of every family on every backend that runs without a GPU, and plans that are opened elsewhere."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import make_blocky
from vlcompress.artefacts import dumps
from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.kernels.synthetic import random_weight
from vlcompress.models.base import Family, Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.models.vilt.adapter import ViltFamily
from vlcompress.results import to_json
from vlcompress.sparse.choice import candidates
from vlcompress.sparse.compile import compile_model, load_compiled, save_compiled, scores, sparse_layers
from vlcompress.sparse.plan import read_plan
from vlcompress.sparse.timing import Effort

QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)
HEAD = Head("answers", ("yes", "no", "red"))
FAMILIES: Mapping[str, Any] = {"lxmert": LxmertFamily, "uniter": UniterFamily, "vilt": ViltFamily}
Masked = tuple[Family, dict[str, Any], nn.Module, dict[str, Tensor], dict[str, Tensor]]


def two_of_four(rows: int, columns: int, seed: int) -> Tensor:
    """Make a random mask that keeps two of every four inputs."""
    order = torch.rand(rows, columns // 4, 4, generator=torch.Generator().manual_seed(seed)).argsort(2)
    return (order < 2).flatten(1)


def masked(name: str, block: tuple[int, int] | None, keep: float = 0.45) -> Masked:
    """Mask a fresh tiny model at random: in blocks, or 2:4 where there is no block."""
    family = FAMILIES[name]()
    config = family.config("tiny", vocab_size=50, feature_dim=16)
    model = family.build(config, HEAD, seed=0).eval()
    prunable, masks = set(family.prunable(model, "bert-tickets").names), {}
    with torch.no_grad():
        for i, (weight, parameter) in enumerate(model.named_parameters()):
            if weight in prunable:
                rows, columns = parameter.shape
                masks[weight] = make_blocky(rows, columns, block, keep, i) if block else two_of_four(rows, columns, i)
                parameter *= masks[weight] * 5
            elif parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    inputs = family.example_inputs(config, batch=3, text=6, regions=5, seed=1)
    return family, config, model, masks, inputs


def save(folder: Path, ticket: Masked, model: nn.Module, plan: Any) -> Path:
    family, config, *_ = ticket
    save_compiled(folder, model.state_dict(), plan, family=family, config=config, head=HEAD, extra={})
    return folder


@pytest.mark.parametrize("block", [(16, 16), (32, 16)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_tickets_on_triton_equal_the_masked_model(name: str, block: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    ticket = masked(name, block)
    family, _, model, masks, inputs = ticket
    compiled, plan = compile_model(family, model, masks, block, inputs=inputs, backend="triton", effort=QUICK)
    packed = [layer for layer in plan.layers if layer.format == "bsr"]
    whole = [layer for layer in packed if layer.block == block and layer.rows]  # shrinking cuts some blocks
    assert {layer.choice.picked for layer in whole} == {"triton"}
    assert whole
    expected = scores(family, model, inputs)
    torch.testing.assert_close(scores(family, compiled, inputs), expected, atol=1e-5, rtol=1e-5)
    again = load_compiled(save(tmp_path / "compiled", ticket, compiled, plan), {name: family})
    assert "triton" in {layer.backend for layer in sparse_layers(again.model).values()}
    torch.testing.assert_close(scores(family, again.model, inputs), expected, atol=1e-5, rtol=1e-5)
    assert again.notice is None


@pytest.mark.parametrize("name", FAMILIES)
def test_24_tickets_are_stored_in_half_and_run_dense_on_a_cpu(name: str, tmp_path: Path) -> None:
    ticket = masked(name, None)
    family, _, model, masks, inputs = ticket
    compiled, plan = compile_model(family, model, masks, (1, 1), inputs=inputs, effort=QUICK)
    assert {layer.format for layer in plan.layers} == {"2:4"}
    run = [layer for layer in plan.layers if layer.rows]
    assert all("is not faster on a cpu" in layer.choice.why and layer.choice.picked == "dense" for layer in run)
    assert sum(layer.nbytes for layer in plan.layers) < 0.54 * sum(4 * mask.numel() for mask in masks.values())
    again = load_compiled(save(tmp_path / "compiled", ticket, compiled, plan), {name: family})
    assert torch.equal(scores(family, again.model, inputs), scores(family, compiled, inputs))
    torch.testing.assert_close(scores(family, compiled, inputs), scores(family, model, inputs))


def test_bf16_is_checked_against_float32_and_the_file_stays_float32(tmp_path: Path) -> None:
    ticket = masked("lxmert", (16, 16))
    family, _, model, masks, inputs = ticket
    compute = Compute("cpu", "bf16")
    compiled, plan = compile_model(family, model, masks, (16, 16), inputs=inputs, compute=compute, effort=QUICK)
    assert plan.computed_on["dtype"] == "bf16"
    assert {p.dtype for p in compiled.parameters()} == {torch.bfloat16}
    assert 1e-6 < plan.max_abs_error < 0.05 * float(scores(family, model, inputs).abs().max())
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "the masked model is not touched"


def test_a_plan_for_another_device_or_dtype_says_so_and_chooses_again(tmp_path: Path) -> None:
    ticket = masked("lxmert", (16, 16))
    family, _, model, masks, inputs = ticket
    compiled, plan = compile_model(family, model, masks, (16, 16), inputs=inputs, effort=QUICK)
    gpu = {"device": "cuda", "dtype": "bf16", "name": "NVIDIA H100"}
    choices = [dataclasses.replace(layer.choice, picked="triton") for layer in plan.layers]
    layers = tuple(
        dataclasses.replace(layer, choice=choice) if layer.format == "bsr" else layer
        for layer, choice in zip(plan.layers, choices, strict=True)
    )
    folder = save(tmp_path / "gpu", ticket, compiled, dataclasses.replace(plan, layers=layers, computed_on=gpu))
    again = load_compiled(folder, {"lxmert": family}, effort=QUICK)
    assert again.notice is not None
    assert "the plan was made on NVIDIA H100 in bf16 and is opened on" in again.notice
    assert "triton" not in {layer.backend for layer in sparse_layers(again.model).values()}
    assert again.plan.computed_on == plan.computed_on
    expected = scores(family, model, inputs)
    torch.testing.assert_close(scores(family, again.model, inputs), expected, atol=1e-5, rtol=1e-5)
    same = load_compiled(save(tmp_path / "cpu", ticket, compiled, plan), {"lxmert": family}, Compute("cpu", "bf16"))
    assert same.notice is not None
    assert {p.dtype for p in same.model.parameters()} == {torch.bfloat16}


def test_tritons_interpreter_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can run on the CPU, for tests; a measurement of it would mean nothing."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    weight = random_weight((64, 64), (32, 32), 0.5)
    assert candidates(weight, CPU)[0] == ["grouped"]


def test_an_unknown_backend_in_a_plan_is_an_error(tmp_path: Path) -> None:
    ticket = masked("lxmert", (16, 16))
    family, _, model, masks, inputs = ticket
    compiled, plan = compile_model(family, model, masks, (16, 16), inputs=inputs, effort=QUICK)
    wrong = dataclasses.replace(plan.layers[0], choice=dataclasses.replace(plan.layers[0].choice, picked="cutlass"))
    folder = save(tmp_path / "compiled", ticket, compiled, dataclasses.replace(plan, layers=(wrong, *plan.layers[1:])))
    with pytest.raises(VlcompressError, match=r"plan\.json': unknown backend 'cutlass': allowed are dense, grouped"):
        load_compiled(folder, {"lxmert": family})


def test_blocks_that_no_kernel_walks_say_which_backend_takes_them() -> None:
    family, _, model, masks, inputs = masked("lxmert", (8, 4))
    match = r"backend 'triton' runs nothing here: for 'lxmert\..*', .* not 8x4; 'dense' and 'grouped' take any block"
    with pytest.raises(VlcompressError, match=match):
        compile_model(family, model, masks, (8, 4), inputs=inputs, backend="triton", effort=QUICK)
    with pytest.raises(VlcompressError, match=r"'semi-structured' runs nothing here: .*the weight is not 2:4 sparse"):
        compile_model(family, model, masks, (8, 4), inputs=inputs, backend="semi-structured", effort=QUICK)


def test_the_plan_survives_json_with_24_layers() -> None:
    family, _, model, masks, inputs = masked("lxmert", None)
    compiled, plan = compile_model(family, model, masks, (1, 1), inputs=inputs, effort=QUICK)
    assert read_plan(json.loads(dumps(to_json(plan)))) == plan
    assert all(isinstance(layer, BlockSparseLinear) for layer in sparse_layers(compiled).values())
