"""A Pruner in a plain loop: masks hold to the bit, rounds reach the schedule's levels, rewinding is exact."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests.training.small_bert import batch, bert, inputs, learn, lives
from vlcompress.errors import VlcompressError
from vlcompress.models.encoder.unfused import unfuse
from vlcompress.models.module import ModuleFamily
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Wanda
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.training.calibration import SCORES, wanda
from vlcompress.training.pruner import Pruner

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda given: torch.optim.AdamW(given, lr=1e-2),
    "foreach": lambda given: torch.optim.AdamW(given, lr=1e-2, foreach=True),
    "momentum": lambda given: torch.optim.SGD(given, lr=1e-1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "factored": lambda given: torch.optim.Adafactor(given, lr=1e-2),
}


def pruned(model: nn.Module, **said: Any) -> Pruner:
    pruner = Pruner(model, **{"schedule": "oneshot", "sparsity": 0.5, **said})
    assert pruner.step()
    return pruner


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_pruned_is_bit_zero_after_every_step(optimizer: str) -> None:
    model = bert()
    pruner, held = pruned(model), OPTIMIZERS[optimizer](model.parameters())
    pruner.hold(held)
    assert learn(model, held, pruner) == [0, 0, 0]
    for name, mask in pruner.masks.items():
        moments = [one for one in held.state[model.get_parameter(name)].values() if one.shape == mask.shape]
        assert not any(moment[~mask].any() for moment in moments)


def test_an_optimizer_that_is_not_held_or_was_released_brings_weights_back() -> None:
    model = bert()
    pruner, optimizer = pruned(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.hold(optimizer)
    pruner.release(optimizer)
    assert min(learn(model, optimizer, pruner)) > 100
    pruner.apply()
    assert lives(model, pruner.masks) == 0


def test_masks_hold_in_bfloat16_weights_and_under_a_scaler() -> None:
    model = bert().to(torch.bfloat16)
    pruner, optimizer = pruned(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.hold(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(3):
        scaler.scale(model(**batch()).loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert lives(model, pruner.masks) == 0
    assert optimizer.state, "no step was taken"


@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "movement", "random", "wanda", "fisher"])
@pytest.mark.parametrize("pattern", ["unstructured", "block:4x4", "neuron+head", "2:4"])
def test_rounds_prune_and_rewind_to_the_start(pattern: str, criterion: str) -> None:
    model = bert()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    shown = inputs() if criterion in SCORES else None
    pruner = Pruner(model, pattern=pattern, criterion=criterion, schedule="linear:25", sparsity=0.5, examples=shown)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.hold(optimizer)
    reached = []
    assert learn(model, optimizer, pruner, 2) == [0, 0]
    while pruner.step():
        assert lives(model, pruner.masks) == 0
        pruner.rewind()
        for name, value in model.state_dict().items():
            kept = pruner.masks.get(name, torch.ones(value.shape, dtype=torch.bool))
            assert torch.equal(value[kept], start[name][kept])
        assert not optimizer.state
        assert learn(model, optimizer, pruner, 2) == [0, 0]
        reached.append(pruner.sparsity)
    assert reached == pytest.approx([0.25, 0.5], abs=0.02)
    assert pruner.levels == (0.25, 0.5)


def test_late_rewinding_goes_back_to_the_mark() -> None:
    model = bert()
    pruner, optimizer = Pruner(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.hold(optimizer)
    learn(model, optimizer, pruner)
    pruner.mark()
    marked = model.get_parameter(QUERY).detach().clone()
    learn(model, optimizer, pruner)
    assert not torch.equal(model.get_parameter(QUERY), marked)
    pruner.rewind()
    assert torch.equal(model.get_parameter(QUERY), marked)


def test_weights_by_name_are_all_that_is_pruned() -> None:
    """Of a model without blocks, too."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    pruner = pruned(model, weights=["1.weight"])
    assert {*pruner.masks} == {"1.weight"}
    assert int((model[1].weight == 0).sum()) == 16


def test_the_model_in_ddp_is_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are those without DDP's "module."; two processes train in test_trainer_callback.py."""
    model = bert()
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert {*Pruner(wrapped).masks} == {*Pruner(model).masks}


def tied() -> nn.Module:
    model: Any = bert()
    attention = model.bert.encoder.layer[0].attention.self
    attention.key.weight = attention.query.weight
    return model  # type: ignore[no-any-return]


def gpt() -> nn.Module:
    own = transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2Model(own)


def fused() -> nn.Module:
    own = transformers.BlipVisionConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1, image_size=16, patch_size=8
    )
    return transformers.BlipVisionModel(own)


def swin() -> nn.Module:
    own = transformers.SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[2], window_size=2)
    return transformers.SwinModel(own)


@pytest.mark.parametrize(
    ("make", "said", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4)), {}, "Sequential has no prunable layers: no numbered block of it"),
        (gpt, {}, "attention 'h.0.attn' is not understood: GPT2Attention has none"),
        (swin, {}, "attention 'encoder.layers.0.blocks.0.attention' is not understood: its 'relative_position_bias."),
        (fused, {}, "keeps query, key and value in one matrix: call vlcompress.unfuse(model) first"),
        (tied, {}, "self.key.weight' is tied to 'bert.encoder.layer.0.attention.self.query.weight'"),
        (tied, {"weights": [QUERY]}, "is tied to"),
        (bert, {"weights": ["bert.pooler.dense.bias"]}, "'bert.pooler.dense.bias' is no weight matrix of this model"),
        (bert, {"weights": []}, "no weight is named"),
        (bert, {"pattern": "block:5x5"}, "pattern 'block:5x5' does not divide weight"),
        (bert, {"pattern": "2:4", "sparsity": 0.7}, "sparsity 0.7 is out of reach of pattern '2:4'"),
        (bert, {"criterion": "best"}, "unknown criterion 'best'"),
        (
            bert,
            {"criterion": "wanda"},
            "criterion 'wanda' ranks by what examples show: give one batch of real inputs by examples=",
        ),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_one_line(
    make: Callable[[], nn.Module], said: dict[str, Any], message: str
) -> None:
    with pytest.raises(VlcompressError, match=re.escape(message)) as error:
        Pruner(make(), **said)
    assert "\n" not in str(error.value)


def test_fused_attention_is_pruned_once_it_is_taken_apart() -> None:
    model = fused()
    pixels = torch.rand(2, 3, 16, 16)
    before = model.eval()(pixels).pooler_output
    unfuse(model)
    torch.testing.assert_close(model(pixels).pooler_output, before)
    assert pruned(model, pattern="head", sparsity=0.3).sparsity == pytest.approx(1 / 3)


def test_gradients_that_never_came_and_optimizers_of_copies_are_refused() -> None:
    model = bert()
    with pytest.raises(VlcompressError, match="ranks by gradients and there were none: hold"):
        Pruner(model, criterion="movement").step()
    with pytest.raises(VlcompressError, match="has none of the prunable weights"):
        Pruner(model).hold(torch.optim.SGD(bert(1).parameters(), lr=0.1))


def test_sums_of_gradients_begin_anew_with_every_round() -> None:
    """The weight that gradients alone speak for, in the round that they do."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    pruner = Pruner(model, weights=["0.weight"], criterion="gradient", schedule="oneshot", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.hold(optimizer)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    for first in (5.0, 1.0):
        pruner.rewind()
        with torch.no_grad():
            model[0].weight.fill_(1.0)
        model(torch.tensor([[first, 2.0]])).sum().backward()
        pruner.hold(optimizer)  # once more: nothing of the sums is lost
        optimizer.step()
        optimizer.zero_grad()
        pruner.hold(optimizer)
    pruner.step()
    assert pruner.masks["0.weight"].tolist() == [[False, True]]


def test_processes_that_found_other_masks_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(hashes: list[Any], mine: str) -> None:
        hashes[:] = [mine, "another"]

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    with pytest.raises(VlcompressError, match="the processes found different masks"):
        Pruner(bert()).step()


def test_examples_are_looked_at_row_by_row_and_leave_the_model_as_it_was() -> None:
    """Wanda's masks are those of its scores of every row alone; dropout is off while they are computed."""
    model = bert().train()
    pruner = pruned(model, criterion="wanda", examples=inputs())
    assert all(module.training for module in model.modules())
    same = bert().eval()
    rows = [{name: value[row : row + 1] for name, value in inputs().items()} for row in range(8)]
    scores = wanda(same, ModuleFamily(), rows, [*pruner.masks])
    weights = {name: same.get_parameter(name).detach() for name in pruner.masks}
    pattern = parse_pattern("unstructured")
    found = prune(weights, Masks.keep_all(weights), 0.5, pattern=pattern, criterion=Wanda(scores), allocation=Global())
    assert found.sha256() == pruner.masks.sha256()


def test_examples_without_a_use_are_told_and_convolutions_are_not_calibrated() -> None:
    with pytest.warns(UserWarning, match="examples have no effect with criterion 'magnitude'"):
        Pruner(bert(), examples=inputs())
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(VlcompressError, match="is of a Conv2d, and moments of inputs are of linear layers"):
        Pruner(model, weights=["0.weight"], criterion="wanda", examples=torch.rand(2, 3, 8, 8))
    pruner = Pruner(model, weights=["0.weight"], criterion="fisher", examples=torch.rand(2, 3, 8, 8), sparsity=0.5)
    assert pruner.step()
    assert pruner.masks.sparsity == pytest.approx(0.1, abs=0.01)


def started(criterion: str = "gradient", **said: Any) -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
    model = bert().eval()  # without dropout, so that no random state is to be kept
    pruner = Pruner(model, criterion=criterion, **{"schedule": "linear:25", "sparsity": 0.5, **said})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.hold(optimizer)
    return model, pruner, optimizer


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_state_goes_on_to_the_same_masks_and_the_same_start() -> None:
    """Taken between two rounds, in the middle of the sums of gradients."""
    model, pruner, optimizer = started()
    steps(model, optimizer, 2)
    pruner.step()
    steps(model, optimizer, 2)
    kept = pruner.state_dict(), copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    again, other, its_optimizer = started()
    again.load_state_dict(kept[1])
    its_optimizer.load_state_dict(kept[2])
    other.load_state_dict(kept[0])
    for one, by, learned in ((pruner, optimizer, model), (other, its_optimizer, again)):
        steps(learned, by, 1)
        assert one.step()
        assert not one.step()
        assert lives(learned, one.masks) == 0
    assert pruner.masks.sha256() == other.masks.sha256()
    assert pruner.sparsity == pytest.approx(0.5, abs=0.01)
    for one in (pruner, other):
        one.rewind()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"schedule": "linear:10"}, "'levels' is (2,) there and (5,) here"),
        ({"sparsity": 0.4}, "its levels are [0.25, 0.5], here they are [0.25, 0.4]"),
        ({"criterion": "magnitude"}, "only it has 'criterion gradient'"),
        ({"weights": [QUERY]}, "only it has 'masks."),
    ],
)
def test_the_state_of_another_pruner_is_refused(said: dict[str, Any], message: str) -> None:
    state = started()[1].state_dict()
    with pytest.raises(VlcompressError, match=re.escape(message)):
        started(**said)[1].load_state_dict(state)
