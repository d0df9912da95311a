"""A ResNet ticket in DETR and UPerNet: the same features, and a mask that training holds."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.models.resnet.transfer import detection_model, put_backbone, segmentation_model
from vlcompress.pruning.mask import Masks
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train

FAMILY = ResnetFamily()
CONFIG = FAMILY.config("tiny")
LABELS = ("cat", "dog", "car")
SMALL_DETR = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 5,
}
SMALL_UPERNET = {"hidden_size": 16, "pool_scales": [1, 2]}


def _detector(seed: int = 0) -> Any:
    return detection_model(CONFIG, LABELS, seed=seed, **SMALL_DETR)


def _segmenter(seed: int = 0) -> Any:
    return segmentation_model(CONFIG, LABELS, seed=seed, **SMALL_UPERNET)


def _ticket() -> tuple[Any, Masks]:
    model: Any = FAMILY.build(CONFIG, Head("classes", LABELS), seed=3).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running" in name or ("normalization" in name and value.is_floating_point()):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    parameters = dict(model.named_parameters())
    names = FAMILY.prunable(model, "conv-except-conv1").names
    masks = Masks({name: torch.rand(parameters[name].shape, generator=generator) > 0.5 for name in names})
    masks.apply(model)
    return model, masks


class Scenes:
    """Random pictures with one object and a class for every pixel."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pixels = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        pixels = self.pixels[list(indices)]
        return Batch({"pixel_values": pixels}, {"classes": (pixels[:, 0] > 0).long() + (pixels[:, 1] > 1).long()})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        classes = batch.targets["classes"]
        if self.kind == "segmentation":
            loss: Tensor = model(**batch.inputs, labels=classes).loss
            return loss
        # In place of DETR's own loss, which needs SciPy: every query names the class of the first pixel.
        outputs = model(**batch.inputs)
        return (
            cross_entropy(outputs.logits.flatten(0, 1), classes[:, 0, :1].expand(-1, 5).flatten())
            + (outputs.pred_boxes - 0.5).square().mean()
        )


@pytest.mark.parametrize(("make", "kind"), [(_detector, "detection"), (_segmenter, "segmentation")])
def test_features_are_the_tickets_and_training_holds_its_mask(make: Any, kind: str) -> None:
    ticket, masks = _ticket()
    model = make()
    held = Masks(put_backbone(model, ticket.state_dict(), masks))
    assert held.kept == masks.kept
    pixels = Scenes(kind).pixels[:2]
    backbone = model.model.backbone.model if kind == "detection" else model.backbone
    with torch.no_grad():
        features = backbone.eval()(pixels).feature_maps[-1]
        expected = ticket.resnet(pixels).last_hidden_state
    torch.testing.assert_close(features, expected)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(
        model,
        Scenes(kind),
        Hyperparameters(4, 4, 1e-2, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0, optimizer="adamw"),
        seed=0,
        masks=held,
    )
    state = model.state_dict()
    for name, mask in held.items():
        assert not state[name][~mask].view(torch.int32).any(), name
    assert any(not torch.equal(state[name], before[name]) for name in held)


def test_detr_trains_on_its_own_loss(recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("scipy")
    ticket, masks = _ticket()
    model = _detector()
    put_backbone(model, ticket.state_dict(), masks)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2
    loss = model(Scenes("detection").pixels[:2], labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_weights_are_seeded_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (_segmenter(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_classes_keep_their_names() -> None:
    assert _detector().config.id2label == dict(enumerate(LABELS))


def test_a_ticket_of_another_size_is_refused_whole() -> None:
    small = FAMILY.build(FAMILY.config("small"), Head("classes", LABELS), seed=0)
    model = _segmenter()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(VlcompressError, match=r"unexpected: encoder\.stages.*other shapes: embedder"):
        put_backbone(model, small.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_a_resnet_is_refused() -> None:
    with pytest.raises(VlcompressError, match="Linear is not built around one ResNet"):
        put_backbone(nn.Linear(2, 2), {})
