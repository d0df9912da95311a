"""ResNet as a family: torchvision's, MoCo's and simCLR's names, its stems, its weights counted, its batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel

from vlcompress.data.examples import Pictures
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head, Sample
from vlcompress.models.registry import family_named
from vlcompress.models.resnet.adapter import MEAN, STD, ResnetFamily
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Block, Unstructured

FAMILY = ResnetFamily()
CLASSES = Head("classes", ("cat", "dog", "car"))
CONFIG: Config = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [8, 16],
    "depths": [2, 1],
    "layer_type": "bottleneck",
    "stem": "imagenet",
    "image_size": 32,
}
CIFAR = CONFIG | {"stem": "cifar"}
CONV1 = "resnet.embedder.embedder.convolution.weight"


def _official(kernel: int = 7) -> dict[str, Tensor]:
    """A state dict with torchvision's names and shapes for the configuration above, statistics included."""
    shapes: dict[str, list[int]] = {
        "conv1.weight": [4, 3, kernel, kernel],
        "bn1": [4],
        "fc.weight": [3, 16],
        "fc.bias": [3],
    }
    for block, inside, width, out, down in (
        ("layer1.0", 4, 2, 8, 1),
        ("layer1.1", 8, 2, 8, 0),
        ("layer2.0", 8, 4, 16, 1),
    ):
        shapes |= {f"{block}.conv1.weight": [width, inside, 1, 1], f"{block}.bn1": [width]}
        shapes |= {f"{block}.conv2.weight": [width, width, 3, 3], f"{block}.bn2": [width]}
        shapes |= {f"{block}.conv3.weight": [out, width, 1, 1], f"{block}.bn3": [out]}
        if down:
            shapes |= {f"{block}.downsample.0.weight": [out, inside, 1, 1], f"{block}.downsample.1": [out]}
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith(("weight", "bias")):
            state[name] = torch.randn(shape, generator=generator) * 0.5
        else:
            state |= {
                f"{name}.{part}": torch.rand(shape, generator=generator) + 0.5 for part in ("weight", "running_var")
            }
            state |= {f"{name}.{part}": torch.randn(shape, generator=generator) for part in ("bias", "running_mean")}
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def _reference(state: dict[str, Tensor], x: Tensor, *, cifar: bool) -> Tensor:
    """ResNet-50's arithmetic (He et al.; stride in the 3x3 convolution, as torchvision) on torchvision's names."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False, eps=1e-5)

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=1 if cifar else 2, padding=1 if cifar else 3), "bn1"))
    x = x if cifar else F.max_pool2d(x, 3, 2, 1)
    for block, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2)):
        y = F.relu(norm(F.conv2d(x, state[f"{block}.conv1.weight"]), f"{block}.bn1"))
        y = F.relu(norm(F.conv2d(y, state[f"{block}.conv2.weight"], stride=stride, padding=1), f"{block}.bn2"))
        y = norm(F.conv2d(y, state[f"{block}.conv3.weight"]), f"{block}.bn3")
        if f"{block}.downsample.0.weight" in state:
            x = norm(F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride), f"{block}.downsample.1")
        x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def _saved(folder: Path, state: Any) -> str:
    torch.save(state, folder / "x.pth")
    return str(folder / "x.pth")


def _pixels() -> dict[str, Tensor]:
    return FAMILY.example_inputs(CONFIG, batch=3, text=1, regions=1, seed=1)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_torchvision_file_gives_torchvisions_scores(stem: str, tmp_path: Path) -> None:
    state = _official(7 if stem == "imagenet" else 3)
    model = FAMILY.build(CONFIG | {"stem": stem}, CLASSES, seed=0).eval()
    report = FAMILY.load(model, _saved(tmp_path, state))
    assert report.head == "loaded"
    assert report.notes == ()
    assert model.state_dict()["resnet.embedder.embedder.normalization.num_batches_tracked"] == 7
    expected = _reference(state, _pixels()["pixel_values"], cifar=stem == "cifar")
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.logits(model, _pixels()), expected, atol=1e-5, rtol=1e-5)


def _moco() -> dict[str, Any]:
    state = _official()
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    projection = {"fc.0.weight": torch.zeros(16, 16), "fc.2.bias": torch.zeros(4)}
    query = {f"module.encoder_q.{name}": value for name, value in (backbone | projection).items()}
    key = {f"module.encoder_k.{name}": value + 1 for name, value in (backbone | projection).items()}
    queue = {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": query | key | queue}


def _simclr() -> dict[str, Any]:
    backbone = {f"convnet.{name}": value for name, value in _official().items() if not name.startswith("fc.")}
    return {"state_dict": backbone | {"projection.layers.0.weight": torch.zeros(16, 16)}}


@pytest.mark.parametrize("checkpoint", [_moco, _simclr])
def test_self_supervised_files_give_their_backbone(checkpoint: Callable[[], Any], tmp_path: Path) -> None:
    model = FAMILY.build(CONFIG, CLASSES, seed=0)
    before = model.state_dict()["classifier.1.weight"].clone()
    report = FAMILY.load(model, _saved(tmp_path, checkpoint()))
    assert report.head == "fresh"
    assert any("projection." in note for note in report.notes)
    assert any("key encoder" in note for note in report.notes) == (checkpoint is _moco)
    state = model.state_dict()
    assert torch.equal(
        state["resnet.encoder.stages.1.layers.0.layer.1.convolution.weight"], _official()["layer2.0.conv2.weight"]
    )
    assert torch.equal(state["classifier.1.weight"], before)


def test_the_imagenet_stem_is_left_out_of_a_cifar_model(tmp_path: Path) -> None:
    model = FAMILY.build(CIFAR, CLASSES, seed=0)
    fresh = model.state_dict()[CONV1].clone()
    report = FAMILY.load(model, _saved(tmp_path, _official()), fresh_head=True)
    assert report.head == "fresh"
    assert any(CONV1 in note for note in report.notes)
    assert "the task head stays fresh, as asked" in report.notes
    assert torch.equal(model.state_dict()[CONV1], fresh)
    assert torch.equal(model.state_dict()["resnet.embedder.embedder.normalization.bias"], _official()["bn1.bias"])


def test_a_file_without_batch_counters_loads(tmp_path: Path) -> None:
    old = {name: value for name, value in _official().items() if "num_batches" not in name}
    assert FAMILY.load(FAMILY.build(CONFIG, CLASSES, seed=0), _saved(tmp_path, old)).head == "loaded"


def test_a_hugging_face_backbone_loads(tmp_path: Path) -> None:
    plain = {name: value for name, value in CONFIG.items() if name not in ("model_type", "stem", "image_size")}
    backbone = ResNetModel(ResNetConfig(**plain))
    backbone.save_pretrained(tmp_path)
    model: Any = FAMILY.build(CONFIG, CLASSES, seed=0)
    assert FAMILY.load(model, str(tmp_path)).head == "fresh"
    assert all(torch.equal(value, model.resnet.state_dict()[name]) for name, value in backbone.state_dict().items())


def test_a_missing_or_foreign_tensor_is_an_error(tmp_path: Path) -> None:
    state = _official()
    del state["layer1.1.bn2.running_var"]
    with pytest.raises(VlcompressError, match=r"missing: resnet\.encoder\.stages\.0\.layers\.1\.layer\.1"):
        FAMILY.load(FAMILY.build(CONFIG, CLASSES, seed=0), _saved(tmp_path, state))
    with pytest.raises(VlcompressError, match=r"unexpected: resnet\.encoder\.stages\.2"):
        FAMILY.load(
            FAMILY.build(CONFIG, CLASSES, seed=0), _saved(tmp_path, _official() | {"layer3.0.bn1.bias": torch.ones(2)})
        )


def test_resnet50_is_the_published_model() -> None:
    head = Head("classes", tuple(str(index) for index in range(1000)))
    model = FAMILY.skeleton(FAMILY.config("50-imagenet"), head)
    prunable = FAMILY.prunable(model, "conv-except-conv1")
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032  # torchvision's resnet50
    assert prunable.backbone == 25_557_032 - 2_049_000
    assert prunable.weights == 23_454_912 - 9_408  # every convolution but conv1
    assert len(prunable.names) == 52
    cifar = FAMILY.prunable(FAMILY.skeleton(FAMILY.config("50"), head), "conv-except-conv1")
    assert cifar.names == prunable.names
    assert cifar.backbone == prunable.backbone - 9_408 + 64 * 3 * 9


def test_prunable_and_excluded_are_every_parameter_once() -> None:
    model = FAMILY.build(CIFAR, CLASSES, seed=0)
    prunable = FAMILY.prunable(model, "conv-except-conv1")
    assert sorted([*prunable.names, *prunable.excluded]) == sorted(name for name, _ in model.named_parameters())
    assert prunable.excluded[CONV1].startswith("first convolution")
    assert prunable.excluded["classifier.1.weight"].startswith("task head")
    assert prunable.excluded["resnet.encoder.stages.0.layers.0.shortcut.normalization.weight"].startswith("batch norm")
    with pytest.raises(VlcompressError, match="unknown pruning policy 'bert-tickets'"):
        FAMILY.prunable(model, "bert-tickets")


def test_convolutions_are_pruned_globally_and_blocks_refuse_them() -> None:
    model = FAMILY.build(CIFAR, CLASSES, seed=0)
    names = FAMILY.prunable(model, "conv-except-conv1").names
    weights = {name: dict(model.named_parameters())[name].detach() for name in names}
    how = {"criterion": Magnitude(), "allocation": Global()}
    masks = prune(weights, Masks.keep_all(weights), 0.2, pattern=Unstructured(), **how)
    masks = prune(weights, masks, 0.36, pattern=Unstructured(), **how)
    pruned = round(0.36 * masks.total)
    assert masks.total - masks.kept == pruned
    every = torch.cat([weights[name].abs().flatten() for name in names])
    gone = torch.cat([weights[name][~masks[name]].abs() for name in names])
    assert gone.max() <= every.sort().values[pruned - 1]
    assert masks[names[1]].dim() == 4
    with pytest.raises(VlcompressError, match="is none \\(a convolution\\): use 'unstructured'"):
        prune(weights, masks, 0.5, pattern=Block(4, 4), **how)


def test_fresh_weights_are_seeded_and_of_he_et_al() -> None:
    config = FAMILY.config("small")
    first, again, other = (FAMILY.build(config, CLASSES, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "resnet.encoder.stages.2.layers.1.layer.0.convolution.weight"
    assert not torch.equal(first[name], other[name])
    assert first[name].std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert first["resnet.embedder.embedder.normalization.running_var"].eq(1).all()
    assert not first["resnet.embedder.embedder.normalization.running_mean"].any()


def _sample(height: int, width: int) -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(np.zeros(0, np.int64), np.zeros(0, np.int64), (image,))


def test_collate_normalises_by_channel() -> None:
    one = _sample(4, 6)
    pixels = FAMILY.collate([one, one])["pixel_values"]
    assert pixels.shape == (2, 3, 4, 6)
    image = one.images[0]
    assert isinstance(image, np.ndarray)
    for channel in range(3):
        expected = (image[:, :, channel] / 255 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(pixels[1, channel].numpy(), expected, atol=1e-6)


def test_pictures_are_cut_to_their_middle_square() -> None:
    class Source:
        def pixels(self, image: str) -> NDArray[np.uint8]:
            picture = np.zeros((32, 64, 3), np.uint8)
            picture[:, 16:48] = 200
            return picture

    pixels = FAMILY.pictures(FAMILY.config("tiny"), cast(Pictures, Source())).pixels("any")
    assert pixels.shape == (16, 16, 3)
    assert (pixels == 200).all()


def test_it_is_registered_and_takes_classes_only() -> None:
    assert isinstance(family_named("resnet"), ResnetFamily)
    assert isinstance(FAMILY.build(FAMILY.config("tiny"), CLASSES, seed=0), nn.Module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: FAMILY.config("18"), "unknown size of resnet '18'"),
        (lambda: FAMILY.build(CONFIG, Head("answers", ("a",)), seed=0), "unknown kind of head 'answers'"),
        (lambda: FAMILY.build(CONFIG, Head("classes"), seed=0), "no labels"),
        (lambda: FAMILY.build(CONFIG | {"stem": "wide"}, CLASSES, seed=0), "unknown stem of resnet 'wide'"),
        (lambda: FAMILY.build(CONFIG | {"layer_type": "odd"}, CLASSES, seed=0), "makes no ResNet model"),
        (lambda: FAMILY.collate([_sample(4, 4), _sample(4, 5)]), "different sizes in one batch"),
    ],
)
def test_refusals(change: Callable[[], object], message: str) -> None:
    with pytest.raises(VlcompressError, match=message):
        change()
