"""The runner gives the model's own answers, whatever it pads; captures are few, and one that fails falls back."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Ticket
from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, Head
from vlcompress.models.registry import family_named
from vlcompress.sparse.compile import compile_model, sparse_layers
from vlcompress.sparse.runner import Call, Runner
from vlcompress.sparse.timing import Effort

ANSWERS = Head("answers", ("red", "blue", "green"))
CELLS = [
    ("lxmert", ANSWERS),
    ("lxmert", Head("pair", ("false", "true"))),
    ("uniter", ANSWERS),
    ("uniter", Head("match")),
    ("uniter", Head("region")),
    ("uniter", Head("pair", ("false", "true"), "paired-attn")),
    ("uniter", Head("pair", ("false", "true"), "triplet")),
    ("vilt", ANSWERS),
    ("vilt", Head("pair", ("false", "true"))),
    ("resnet", Head("classes", ("cat", "dog"))),
]


class Graphs:
    """Stands for CUDA graphs: a capture keeps its output tensor, and a replay computes into it again."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, call: Call) -> Call:
        self.captures += 1
        output = call()

        def replay() -> Tensor:
            self.replays += 1
            return output.copy_(call())

        return replay


def made(name: str, head: Head) -> tuple[Family, nn.Module, dict[str, Any]]:
    family = family_named(name)
    config = family.config("tiny", **({} if name == "resnet" else {"vocab_size": 50, "feature_dim": 16}))
    model = family.build(config, head, seed=0).eval()
    with torch.no_grad():  # weights wide enough that what is looked at matters
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) * 0.1)
    return family, model, config


def direct(family: Family, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return family.logits(model, inputs)


@pytest.mark.parametrize(("name", "head"), CELLS)
def test_on_the_cpu_the_bits_are_the_models_own(name: str, head: Head) -> None:
    family, model, config = made(name, head)
    inputs = family.example_inputs(config, batch=6, text=5, regions=3, seed=0)
    assert torch.equal(Runner(family, model, head)(inputs), direct(family, model, inputs))


@pytest.mark.parametrize(("name", "head"), CELLS)
def test_padding_changes_no_answer(name: str, head: Head) -> None:
    family, model, config = made(name, head)
    graphs = Graphs()
    runner = Runner(family, model, head, capture=graphs)
    rows = 2 if head.kind == "pair" else 1
    for batch in range(1, 10):
        inputs = family.example_inputs(config, batch=rows * batch, text=9 + batch, regions=2 + batch, seed=batch)
        expected = direct(family, model, inputs)
        found = runner(inputs)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(runner(inputs), found)
    assert graphs.replays == 2 * 9


@pytest.mark.parametrize(("name", "head"), CELLS)
def test_inputs_of_a_captured_shape_keep_their_bits(name: str, head: Head) -> None:
    family, model, config = made(name, head)
    inputs = family.example_inputs(config, batch=4, text=8, regions=4, seed=0)
    assert torch.equal(Runner(family, model, head, capture=Graphs())(inputs), direct(family, model, inputs))


def test_one_capture_serves_all_that_is_padded_to_it() -> None:
    family, model, config = made("uniter", ANSWERS)
    graphs = Graphs()
    runner = Runner(family, model, ANSWERS, capture=graphs, buckets={"text": (12, 16), "regions": (10,)})
    shapes = [(8, 16, 10), (5, 13, 9), (7, 15, 1), (8, 12, 10), (6, 3, 2)]
    for batch, text, regions in shapes:
        inputs = family.example_inputs(config, batch=batch, text=text, regions=regions, seed=text)
        torch.testing.assert_close(runner(inputs), direct(family, model, inputs), atol=1e-6, rtol=1e-5)
    assert (graphs.captures, graphs.replays) == (2, 5)
    # What a longer request left in the buffers is gone.
    inputs = family.example_inputs(config, batch=5, text=2, regions=2, seed=3)
    torch.testing.assert_close(runner(inputs), direct(family, model, inputs), atol=1e-6, rtol=1e-5)


def test_an_answer_is_not_overwritten_by_the_next() -> None:
    family, model, config = made("lxmert", ANSWERS)
    runner = Runner(family, model, ANSWERS, capture=Graphs())
    one, other = (family.example_inputs(config, batch=2, text=6, regions=4, seed=seed) for seed in (0, 1))
    first = runner(one)
    assert not torch.equal(runner(other), first)
    assert torch.equal(first, direct(family, model, one))


def test_the_least_recently_used_graph_goes() -> None:
    family, model, config = made("lxmert", ANSWERS)
    graphs = Graphs()
    runner = Runner(family, model, ANSWERS, capture=graphs, kept=2)
    inputs = {batch: family.example_inputs(config, batch=batch, text=6, regions=4, seed=0) for batch in (1, 2, 4)}
    for batch in (1, 2, 1, 4, 1):
        runner(inputs[batch])
    assert graphs.captures == 3
    runner(inputs[2])
    assert graphs.captures == 4


def test_an_axis_that_no_mask_covers_is_not_padded() -> None:
    family, model, config = made("lxmert", ANSWERS)
    graphs = Graphs()
    runner = Runner(family, model, ANSWERS, capture=graphs)
    for regions in (9, 10):  # LXMERT masks no regions where all images have the same number
        inputs = family.example_inputs(config, batch=2, text=6, regions=regions, seed=0)
        torch.testing.assert_close(runner(inputs), direct(family, model, inputs), atol=1e-6, rtol=1e-5)
    assert graphs.captures == 2


def test_words_are_padded_to_no_more_than_the_model_has_places_for() -> None:
    family, model, config = made("lxmert", ANSWERS)
    config["max_position_embeddings"] = 18
    model = family.build(config, ANSWERS, seed=0).eval()
    inputs = family.example_inputs(config, batch=2, text=17, regions=4, seed=0)
    found = Runner(family, model, ANSWERS, capture=Graphs())(inputs)
    torch.testing.assert_close(found, direct(family, model, inputs), atol=1e-6, rtol=1e-5)


def test_a_capture_that_fails_falls_back_and_says_so_once() -> None:
    family, model, config = made("vilt", ANSWERS)

    def refuse(call: Call) -> Call:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    runner = Runner(family, model, ANSWERS, capture=refuse)
    one, other = (family.example_inputs(config, batch=batch, text=6, regions=4, seed=0) for batch in (3, 5))
    with pytest.warns(
        UserWarning, match=r"^mode graphs failed on cpu, so the model runs eager: operation not permitted"
    ):
        torch.testing.assert_close(runner(one), direct(family, model, one), atol=1e-6, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(runner(other), direct(family, model, other), atol=1e-6, rtol=1e-5)


def test_a_mistake_in_the_inputs_is_no_failed_capture() -> None:
    family, model, config = made("lxmert", ANSWERS)
    graphs = Graphs()
    inputs = family.example_inputs(config, batch=2, text=6, regions=4, seed=0)
    with pytest.raises((IndexError, RuntimeError)):
        Runner(family, model, ANSWERS, capture=graphs)(inputs | {"input_ids": inputs["input_ids"] + 50})
    assert graphs.captures == 0


@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt", "resnet"])
def test_two_byte_weights_answer_in_float32(name: str) -> None:
    head = Head("classes", ("cat", "dog")) if name == "resnet" else ANSWERS
    family, model, config = made(name, head)
    inputs = family.example_inputs(config, batch=3, text=6, regions=4, seed=0)
    expected = direct(family, model, inputs)
    for capture in (None, Graphs()):
        found = Runner(family, model, head, Compute("cpu", "bf16"), capture=capture)(inputs)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("backend", ["grouped", "triton"])
def test_packed_layers_run(backend: str, ticket_of: Callable[..., Ticket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    ticket = ticket_of((16, 16), 0.5)
    effort = Effort(rounds=1, burst_s=0.0, warmup=0)
    packed, _ = compile_model(
        ticket.family, ticket.model, ticket.masks, (16, 16), inputs=ticket.inputs, backend=backend, effort=effort
    )
    assert sparse_layers(packed)
    expected = direct(ticket.family, ticket.model, ticket.inputs)
    for runner in (
        Runner(ticket.family, packed, ticket.head, capture=Graphs()),
        Runner(ticket.family, packed, ticket.head, mode="compiled"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(runner(ticket.inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.nightly
def test_compiled_is_one_graph_a_shape_and_knows_no_limit_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    family, model, config = made("lxmert", ANSWERS)
    runner = Runner(family, model, ANSWERS, mode="compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in range(2, 11):  # torch.compile's own limit is 8
            inputs = family.example_inputs(config, batch=2, text=text, regions=4, seed=0)
            for _ in range(2):
                torch.testing.assert_close(runner(inputs), direct(family, model, inputs), atol=1e-6, rtol=1e-5)


def test_modes_are_checked() -> None:
    family, model, _ = made("lxmert", ANSWERS)
    with pytest.raises(VlcompressError, match="mode graphs on cpu: CUDA graphs take a GPU; use eager or compiled"):
        Runner(family, model, ANSWERS, mode="graphs")
    with pytest.raises(VlcompressError, match="unknown mode of a runner 'fast'"):
        Runner(family, model, ANSWERS, mode="fast")
