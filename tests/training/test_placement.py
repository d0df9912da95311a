"""A training step of every cell on a device that is not the CPU: nothing stays behind, and the host never waits for it.

There is no GPU in it. The tensors are fake ones that say they lie on another device and hold no numbers: whatever asks
for a number (a size that depends on data, a truth value, a loss to be printed) raises, as do products across devices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tasks.conftest import VOCABULARY, MemoryPictures, make_data
from vlcompress.data.examples import (
    AnswerExample,
    CaptionExample,
    ChoiceExample,
    ClassExample,
    EntailmentExample,
    PairExample,
    ReferringExample,
    SentenceExample,
)
from vlcompress.data.scenes.located import located
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.language import language_part
from vlcompress.models.objective import Batch, Objective
from vlcompress.models.registry import families_of, family_named
from vlcompress.models.uniter.pretraining import MIX, UniterPretrainingObjective
from vlcompress.pruning.mask import Masks
from vlcompress.tasks.detection import DetectionTask
from vlcompress.tasks.language import WordsAlone
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.registry import TASKS
from vlcompress.tasks.segmentation import SegmentationTask
from vlcompress.training.adversarial import Adversarial, parse_perturbation
from vlcompress.training.distillation import Distilled
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import MaskKeeper
from vlcompress.training.saliency import Saliency
from vlcompress.training.step import optimizer_of

ELSEWHERE = torch.device("meta")
FAKE = FakeTensorMode()
TWO, THREE = [[0, 0, 50, 50], [1, 1, 60, 60]], [[5, 5, 40, 40], [2, 2, 9, 9], [1, 1, 8, 8]]
BOXES = {"m": TWO, "nnn": THREE, "other": TWO}
PICTURES = MemoryPictures(BOXES, BOXES)
WORDS = [("red", "cube"), ("blue", "cube"), ("red", "ball"), ("blue", "ball")]
EXAMPLES: dict[str, list[Any]] = {
    "vqa": [AnswerExample(0, "m", "what color is it", {"red": 1.0}), AnswerExample(1, "nnn", "red", {"blue": 0.3})],
    "nlvr2": [PairExample("a", ("m", "nnn"), "a ball", 1, "a"), PairExample("b", ("nnn", "m"), "the cube", 0, "b")],
    "snli_ve": [EntailmentExample("a", "m", "a ball", 1), EntailmentExample("b", "nnn", "the red cube", 2)],
    "vcr": [ChoiceExample("a", "m", ("person", "cube"), ("why", (0,)), tuple(WORDS), tuple(WORDS), 1, 3)] * 2,
    "refcoco": [ReferringExample(7, "m", "a ball", (0, 0, 9, 9), 0), ReferringExample(8, "nnn", "it", (1, 1, 7, 7), 2)],
    "retrieval": [CaptionExample(0, "m", "a red ball"), CaptionExample(1, "nnn", "the blue cube is left of it")],
    "classification": [ClassExample(0, "m", 0), ClassExample(1, "nnn", 1)],
    "sentences": [SentenceExample(0, "a red ball", 0), SentenceExample(1, "the blue cube is left of it", 1)],
}  # fmt: skip
EXAMPLES["gqa"] = EXAMPLES["vqa"]
EXAMPLES["pretraining"] = [
    CaptionExample(row, ("m", "other")[row % 2], "the red cube is left of it") for row in range(4)
]
EXAMPLES |= dict.fromkeys(("simclr", "moco"), EXAMPLES["classification"])
LABELS = {"snli_ve": ("no", "maybe", "yes")}
CELLS = [(family, task) for task in TASKS for family in families_of(task)]
OPTIMIZER = {"lxmert": "bertadam", "uniter": "adamw", "vilt": "adamw", "resnet": "sgd", "encoder": "adamw"}
VARIANTS = {"pair": ("paired-attn", "paired", "triplet"), "region": ("", "mlp")}


class Placed(TorchDispatchMode):
    """Collect every operation that touches the CPU, or whose result's size the host would have to ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.add(f"{func} on the CPU")
        if "index_put" in str(func) and any(one is not None and one.dtype == torch.bool for one in args[1]):
            self.found.add(f"{func} by a mask")
        return out


@contextmanager
def elsewhere() -> Iterator[None]:
    """Check that what runs in the block stays on the device and asks it for nothing."""
    placed = Placed()
    with placed:
        yield
    assert placed.found == set()


def moved(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=ELSEWHERE)


def move(model: nn.Module) -> None:
    """Move a model, its ties kept: `Module.to` cannot turn real parameters into fake ones."""
    new: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new.setdefault(parameter, nn.Parameter(moved(parameter), parameter.requires_grad))
                module._parameters[name] = new[parameter]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else moved(buffer)


def config_of(family: Family, task: str) -> Config:
    return family.config_of("tiny", None, task, VOCABULARY, PICTURES.feature_dim)


def family_for(name: str, task: str) -> Family:
    family = family_named(name)
    return family.of(config_of(family, task))


def model_of(family: Family, head: Head, task: str = "vqa") -> nn.Module:
    return family.build(config_of(family, task), head, seed=0)


def objective_of(family: Family, task: str) -> Objective:
    labels = LABELS.get(task, ("red", "blue"))
    preprocessor = Preprocessor(family, VOCABULARY, family.pictures(config_of(family, task), PICTURES), 20)
    return TASKS[task].learn(make_data(task, EXAMPLES[task], PICTURES, labels), preprocessor)


def heads_of(family: str, head: Head) -> list[Head]:
    """Return the head in all its variants."""
    variants = VARIANTS.get(head.kind, (head.variant,)) if family == "uniter" else (head.variant,)
    return [replace(head, variant=variant) for variant in variants]


def batch_of(objective: Objective, seed: int = 0) -> Batch:
    return objective.batch(range(len(objective)), torch.Generator().manual_seed(seed))


def fake(batch: Batch) -> Batch:
    inputs, targets = ({name: moved(value) for name, value in part.items()} for part in (batch.inputs, batch.targets))
    return Batch(inputs, targets)


def masks_of(family: Family, model: nn.Module) -> Masks:
    """Keep all, elsewhere."""
    parameters = dict(model.named_parameters())
    names = family.prunable(model, "conv-except-conv1" if family.name == "resnet" else "bert-tickets").names
    return Masks({name: torch.ones(parameters[name].shape, dtype=torch.bool, device=ELSEWHERE) for name in names})


def check_step(family: Family, model: nn.Module, objective: Objective, batch: Batch) -> None:
    """Take a step as the training loop does, masked and with saliency, and check where everything is."""
    with FAKE:
        move(model.train())
        batch, masks = fake(batch), masks_of(family, model)
        hyper = Hyperparameters(
            4, 2, 1e-3, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0, optimizer=OPTIMIZER[family.name]
        )
        optimizer = optimizer_of(model, hyper, family.backbone_prefix)
        for group in optimizer.param_groups:
            group["taken"] = 0
        keeper, saliency = MaskKeeper(model, masks), Saliency("movement", model, masks, hyper.steps)
        with elsewhere():
            loss = objective.loss(model, batch)
            loss.backward()
            saliency.add(0)
            torch.nn.utils.clip_grad_norm_(model.parameters(), hyper.clip)
            optimizer.step()
            keeper.enforce(optimizer)
        learnt = [parameter.grad.device for parameter in model.parameters() if parameter.grad is not None]
        assert learnt
        assert {loss.device, *learnt} == {ELSEWHERE}


@pytest.mark.parametrize(("name", "task"), CELLS)
def test_a_training_step_of_every_cell(name: str, task: str) -> None:
    family = family_for(name, task)
    objective = objective_of(family, task)
    batch = batch_of(objective)
    for head in heads_of(name, objective.head):
        model = model_of(family, head, task)
        if task == "moco":  # the first step of all asks whether the queue is empty
            objective.loss(model, batch)
        check_step(family, model, objective, batch)


@pytest.mark.parametrize("name", sorted(MIX))
def test_every_objective_of_uniters_pretraining(name: str) -> None:
    family = family_named("uniter")
    drawn = objective_of(family, "pretraining")._objective
    objective = UniterPretrainingObjective(drawn.examples, VOCABULARY, mix={name: 1})
    check_step(family, model_of(family, Head("pretraining")), objective, batch_of(objective))


@pytest.mark.parametrize("kind", [DetectionTask, SegmentationTask])
def test_detection_and_segmentation(kind: type[DetectionTask | SegmentationTask]) -> None:
    family = family_named("resnet")
    objective = kind(located("train", 2), family)
    check_step(family, model_of(family, objective.head), objective, batch_of(objective))


@pytest.mark.parametrize("name", ["lxmert", "uniter"])
def test_masked_words_alone(name: str) -> None:
    family = family_named(name)
    objective = WordsAlone(language_part(family), objective_of(family, "vqa"), VOCABULARY, VOCABULARY.unk_id)
    check_step(family, model_of(family, Head("pretraining", ("",))), objective, batch_of(objective))


@pytest.mark.parametrize("name", ["lxmert", "uniter"])
def test_adversarial_training(name: str) -> None:
    family = family_named(name)
    objective = Adversarial(objective_of(family, "vqa"), family, parse_perturbation("text+image"))
    check_step(family, model_of(family, Head("answers", ("red", "blue"))), objective, batch_of(objective))


@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt"])
def test_distillation(name: str) -> None:
    family, head = family_named(name), Head("answers", ("red", "blue"))
    teacher = model_of(family, head)
    objective = Distilled(objective_of(family, "vqa"), family, teacher, 1.0)
    with FAKE:
        move(teacher)
    check_step(family, model_of(family, head), objective, batch_of(objective))


@pytest.mark.parametrize(("name", "task"), [cell for cell in CELLS if cell[1] not in ("pretraining", "simclr", "moco")])
def test_inference_of_every_cell(name: str, task: str) -> None:
    family = family_for(name, task)
    objective = objective_of(family, task)
    for head in heads_of(name, objective.head):
        model, batch = model_of(family, head, task).eval(), batch_of(objective)
        with FAKE, torch.no_grad():
            move(model)
            batch = fake(batch)
            with elsewhere():
                assert family.logits(model, batch.inputs).device == ELSEWHERE


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: bool(x.any()),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.masked_fill_(x > 0, 0).__setitem__(x > 0, 1),
        lambda x: x + torch.ones(3),
        lambda x: x[torch.tensor([0])],
    ],
)
def test_the_check_sees_what_asks_the_device(asks: Callable[[Tensor], object]) -> None:
    with (
        FAKE,
        pytest.raises((AssertionError, DataDependentOutputException, DynamicOutputShapeException, RuntimeError)),
        elsewhere(),
    ):
        asks(torch.ones(3, device=ELSEWHERE))
