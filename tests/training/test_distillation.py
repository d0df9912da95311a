"""What the dense model adds to the loss: the task's kind of loss on its logits, and the distance of what heads read."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.models.base import Head, HeadKind
from vlcompress.models.objective import Batch
from vlcompress.models.registry import family_named
from vlcompress.tasks.base import LogitLoss
from vlcompress.training.distillation import Distilled, head_inputs, logits_loss

RNG = torch.Generator().manual_seed(5)
FAMILIES: dict[str, tuple[HeadKind, ...]] = {
    "lxmert": ("answers", "pair"),
    "uniter": ("answers", "pair", "choice", "region", "match"),
    "vilt": ("answers", "pair", "match"),
}


class Classes(LogitLoss):
    """A task whose loss is the cross entropy with the first answer."""

    head = Head("answers", ("yes", "no"))
    hidden = False

    def __len__(self) -> int:
        return 8

    def batch(self, indices: object, rng: torch.Generator) -> Batch:
        return Batch({"x": torch.randn(4, 3, generator=rng)}, {"answers": torch.zeros(4, 2)})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("the model would run twice")

    def loss_of(self, logits: Tensor, targets: object) -> Tensor:
        return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


class Net(nn.Module):
    """A backbone of one layer and a head of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 5), nn.Linear(5, 2)


class NetFamily:
    """What distillation needs of a family."""

    backbone_prefix = "backbone."

    def logits(self, model: Net, inputs: dict[str, Tensor]) -> Tensor:
        return model.head(model.backbone(inputs["x"]).tanh())


def test_loss_is_the_tasks_and_the_weighted_distance_to_the_teacher() -> None:
    student, teacher, task, family = Net(), Net(), Classes(), NetFamily()
    batch = task.batch(None, RNG)
    loss = Distilled(task, family, teacher, 0.25).loss(student, batch)
    x = batch.inputs["x"]
    hidden, wanted = student.backbone(x).tanh(), teacher.backbone(x).tanh()
    logits, said = student.head(hidden), teacher.head(wanted)
    target = said.sigmoid()
    by_hand = -(target * logits.sigmoid().log() + (1 - target) * (1 - logits.sigmoid()).log()).sum(dim=1).mean()
    expected = task.loss_of(logits, None) + 0.25 * (by_hand + (hidden - wanted).square().mean())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(one.grad is not None for one in student.parameters())
    assert all(one.grad is None for one in teacher.parameters())


def test_teacher_is_asked_without_dropout_and_takes_no_chance() -> None:
    student, teacher = Net(), nn.Module()
    teacher.backbone, teacher.head = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.9)), nn.Linear(5, 2)
    teacher.train()
    task = Classes()
    objective = Distilled(task, NetFamily(), teacher, 1.0)
    batch = task.batch(None, RNG)
    before = torch.get_rng_state()
    assert torch.equal(objective.loss(student, batch), objective.loss(student, batch))
    assert torch.equal(torch.get_rng_state(), before)


def test_choices_among_rows_take_the_divergence_reduced_as_their_loss() -> None:
    logits, said = torch.randn(6, generator=RNG), torch.randn(6, generator=RNG)
    p, q = said.view(2, 3).softmax(dim=1), logits.view(2, 3).softmax(dim=1)
    divergence = (p * (p / q).log()).sum()
    pairs = {"right": torch.zeros(2, dtype=torch.int64)}  # three pairs of a caption, flat
    torch.testing.assert_close(logits_loss("match", logits, said, pairs), divergence / 2)
    regions = {"region": torch.zeros(2, dtype=torch.int64)}
    torch.testing.assert_close(logits_loss("region", logits.view(2, 3), said.view(2, 3), regions), divergence)
    padded = torch.tensor([[0.0, 1.0, -1e4]])
    assert math.isclose(float(logits_loss("region", padded, padded, {"region": torch.zeros(1)})), 0.0, abs_tol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in FAMILIES.items() for kind in kinds])
def test_heads_of_every_family_tell_what_they_read(name: str, kind: HeadKind) -> None:
    """The pooled output, or a vector for each region; two images side by side where both are judged together."""
    family = family_named(name)
    config = family.config("tiny", vocab_size=30, feature_dim=0 if name == "vilt" else 8)
    model = family.build(config, Head(kind, ("a", "b")), seed=0).eval()
    inputs = family.example_inputs(config, batch=4, text=5, regions=3, seed=0)
    with torch.no_grad(), head_inputs(model, family.backbone_prefix) as read:
        family.logits(model, inputs)
    width = config["hidden_size"]
    paired = (2, 5 + 3, 2 * width) if name == "uniter" else (2, 2 * width)  # UNITER's default attends between the two
    expected = {"pair": paired, "region": (4, 3, width)}.get(kind, (4, width))
    assert tuple(read[0].shape) == expected
    heard = len(read)
    with torch.no_grad():
        family.logits(model, inputs)
    assert len(read) == heard  # nothing more is heard once the block is left
