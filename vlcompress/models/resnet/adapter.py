"""ResNet (He et al., CVPR 2016) for image classification, as pruned by Chen et al. (CVPR 2021, "paper c").

The modules and their names are those of transformers' ResNet. Sizes with the CIFAR stem (all but "50-imagenet") start
with a 3x3 convolution of stride 1 and no max-pooling, as paper c's code does for pictures of 32 pixels; a checkpoint
with the ImageNet stem loads into them but for that convolution, which then stays fresh.

Shapes: B batch, L labels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from vlcompress.data.examples import Pictures
from vlcompress.data.pixels import Square
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Config, Coupling, Family, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.building import FRESH_STD
from vlcompress.models.checkpoints import Tensors, load_strictly, read_checkpoint, renamed, without_heads
from vlcompress.models.resnet.dense import DENSE_HEADS
from vlcompress.models.resnet.momentum import KEYS, MOMENTUM_VARIANT, add_key_side

_FIFTY: Config = {
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
}
_SIZES: dict[str, Config] = {
    # tiny is for tests, small is He et al.'s ResNet-20 for CIFAR, mini a cheap one for studies, 50 is paper c's.
    "tiny": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "stem": "cifar",
        "image_size": 16,
    },
    "small": {
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 64],
        "depths": [3, 3, 3],
        "layer_type": "basic",
        "stem": "cifar",
        "image_size": 32,
    },
    "mini": {
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 64],
        "depths": [1, 1, 1],
        "layer_type": "basic",
        "downsample_in_first_stage": True,
        "stem": "cifar",
        "image_size": 32,
    },
    "50": {**_FIFTY, "stem": "cifar", "image_size": 32},
    "50-imagenet": {**_FIFTY, "stem": "imagenet", "image_size": 224},
}
STEMS = ("cifar", "imagenet")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1, by channel: what torchvision's and MoCo's weights were trained with, for all data."""

OFFICIAL_NAMES = (
    # torchvision, MoCo v2 and simCLR to transformers, for regular-expression substitution in this order.
    (r"^(?=embedder\.|encoder\.stages\.)", "resnet."),  # a Hugging Face backbone saved alone
    (r"^(encoder_q|convnet|encoder|backbone)\.(?!stages)", ""),  # MoCo v2; simCLR by paper c, and by others
    (r"^(projection|projector|projection_head|fc(?=\.\d))\.", "projection."),
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^layer1\.", "resnet.encoder.stages.0.layers."),
    (r"^layer2\.", "resnet.encoder.stages.1.layers."),
    (r"^layer3\.", "resnet.encoder.stages.2.layers."),
    (r"^layer4\.", "resnet.encoder.stages.3.layers."),
    (r"\.conv1\.", ".layer.0.convolution."),
    (r"\.conv2\.", ".layer.1.convolution."),
    (r"\.conv3\.", ".layer.2.convolution."),
    (r"\.bn1\.", ".layer.0.normalization."),
    (r"\.bn2\.", ".layer.1.normalization."),
    (r"\.bn3\.", ".layer.2.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^fc\.(weight|bias)$", r"classifier.1.\1"),
)
_KEY_SIDE = re.compile(r"(encoder_k\.|queue)")  # MoCo's second encoder and its queue
_STEM = "resnet.embedder.embedder.convolution."
_HEADS = ("classifier.", "projection.")
_COUNT = "num_batches_tracked"

_REASONS = (
    # The first pattern that is found in a name gives the reason why the policy leaves that parameter alone.
    (re.compile(r"^encoder_k\."), "MoCo's key encoder: it follows the pruned one"),
    (re.compile(r"^(?!resnet\.)"), "task head: made anew for every task, never masked"),
    (re.compile(r"normalization\."), "batch normalisation: few weights, each scales a whole channel"),
    (re.compile(re.escape(_STEM)), "first convolution: made anew where the stem changes, never masked (paper c)"),
)


class ResnetFamily(Family):
    """ResNet as the toolchain sees it."""

    name = "resnet"
    title = "ResNet"
    sizes = _SIZES
    heads: ClassVar[tuple[HeadKind, ...]] = ("classes", "boxes", "pixels")
    tasks = ("classification", "simclr", "moco")
    reads = "pixels"
    backbone_prefix = "resnet."
    policies = ("conv-except-conv1",)
    hub_name = "resnet50.pth"  # torchvision's, or MoCo's and simCLR's files
    longest_text = 0

    def config(self, size: str, *, vocab_size: int = 0, feature_dim: int = 0) -> Config:
        """See `Family.config`; "stem" and "image_size" say what pictures it takes: 32 pixels, or ImageNet's 224."""
        return self.sized(size)

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """See `Family.build`; convolutions have He et al.'s deviation (fan out), the classifier 0.02."""
        model = super().build(config, head, seed=seed)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    fan_out = module.weight.numel() // module.in_channels
                    module.weight.mul_(math.sqrt(2 / fan_out) / FRESH_STD)
        return model

    def construct(self, config: Config, head: Head) -> nn.Module:
        """Make transformers' model with the stem and the head that are asked for."""
        if config.get("stem") not in STEMS:
            raise unknown("stem of resnet", str(config.get("stem")), STEMS)
        plain = {name: value for name, value in config.items() if name not in ("stem", "image_size")}
        return _model(plain, head, config["stem"])

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly; classifier, projection head and a stem of another shape may differ, and are told.

        Args:
            model: as made by `build`.
            checkpoint: a Hugging Face folder or hub name, a .safetensors file, or a PyTorch state dict with the names
                of torchvision, MoCo v2 (its query encoder is taken) or simCLR.
            fresh_head: leave the model's classifier alone even where the checkpoint's would fit.

        Raises:
            VlcompressError: an unreadable file; missing, unexpected or misshapen tensors, by name.
        """
        read = read_checkpoint(checkpoint)
        tensors = renamed({name: value for name, value in read.items() if not _KEY_SIDE.match(name)}, OFFICIAL_NAMES)
        notes = ["left out MoCo's key encoder and queue"] if any(_KEY_SIDE.match(name) for name in read) else []
        if fresh_head:
            tensors = without_heads(tensors, _HEADS)
        tensors = _with_counts(tensors, model)
        report = load_strictly(model, tensors, source=checkpoint, heads=(*_HEADS, _STEM, *KEYS))
        loaded = not fresh_head and not any("classifier" in note for note in report.notes)
        kept = [note for note in report.notes if not (fresh_head and "classifier" in note)]
        if fresh_head:
            kept.append("the task head stays fresh, as asked")
        return replace(report, head="loaded" if loaded else "fresh", notes=(*kept, *notes))

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Family.canonical`."""
        return renamed(tensors, OFFICIAL_NAMES)

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name every convolution but the first (paper c, section 3).

        Raises:
            VlcompressError: unknown policy.
        """
        if policy not in self.policies:
            raise unknown("pruning policy", policy, self.policies)
        return Prunable.of(model, _reason, self.backbone_prefix)

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List none: batch normalisation stands between convolutions, and residual sums tie their channels."""
        return ()

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Cut pictures to their middle square and resized to the model's size."""
        return Square(source, side=config["image_size"])

    def preprocessing(self, config: Config) -> Config:
        """Add the side of the middle square, and mean and deviation of the channels."""
        square = {"square": config["image_size"], "filter": "bilinear"}
        return super().preprocessing(config) | square | {"mean": [*MEAN], "std": [*STD]}

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Stack pictures of one size.

        Returns:
            pixel_values float32 [B, 3, height, width], by channel minus `MEAN` over `STD`.

        Raises:
            VlcompressError: pictures of different sizes.
        """
        images = [np.asarray(sample.images[0], dtype=np.uint8) for sample in samples]
        if len({image.shape for image in images}) > 1:
            raise VlcompressError("pictures of different sizes in one batch: resize them (ResnetFamily.pictures)")
        pixels_BHWC = torch.from_numpy(np.stack(images)).float() / 255
        pixels_BHWC = (pixels_BHWC - torch.tensor(MEAN)) / torch.tensor(STD)
        return {"pixel_values": pixels_BHWC.permute(0, 3, 1, 2).contiguous()}

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random pictures, float32 [batch, 3, image_size, image_size]; `text` and `regions` play no part."""
        generator = torch.Generator().manual_seed(seed)
        side = config["image_size"]
        return {"pixel_values": torch.randn(batch, 3, side, side, generator=generator)}

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axis that may vary: the batch."""
        return {"pixel_values": {0: "batch"}}

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute the scores of the classes float32 [B, L] before any softmax; of other heads see `HeadKind`."""
        parts: Any = model
        pixels = inputs["pixel_values"]
        scores: Tensor
        dense = isinstance(parts.classifier, tuple(DENSE_HEADS.values()))
        if dense:
            stages = parts.resnet(pixels, output_hidden_states=True).hidden_states[1:]
            scores = parts.classifier(stages, pixels.shape[2:])
        else:
            scores = parts.classifier(parts.resnet(pixels).pooler_output)
        return scores


def _model(plain: Config, head: Head, stem: str) -> nn.Module:
    model: Any = ResNetForImageClassification(ResNetConfig(**plain | {"num_labels": len(head.labels)}))
    if stem == "cifar":
        use_cifar_stem(model.resnet)
    if head.kind in DENSE_HEADS:
        model.classifier = DENSE_HEADS[head.kind](plain["hidden_sizes"], len(head.labels))
    if head.variant == MOMENTUM_VARIANT:
        add_key_side(model, len(head.labels))
    module: nn.Module = model
    return module


def use_cifar_stem(backbone: nn.Module) -> None:
    """Give a transformers ResNet (model or backbone) the stem of paper c: 3x3, stride 1, no max-pooling."""
    embedder: Any = backbone.embedder
    first = embedder.embedder.convolution
    embedder.embedder.convolution = nn.Conv2d(first.in_channels, first.out_channels, 3, 1, 1, bias=False)
    embedder.pooler = nn.Identity()


def _with_counts(tensors: Tensors, model: nn.Module) -> Tensors:
    """Add the batch counters, which files older than PyTorch 0.4.1 lack; nothing reads them here."""
    own = model.state_dict()
    counts = {name: value for name, value in own.items() if name.endswith(_COUNT) and not name.startswith(KEYS)}
    return {name: torch.zeros_like(value) for name, value in counts.items()} | tensors


def _reason(name: str) -> str:
    return next((reason for pattern, reason in _REASONS if pattern.search(name)), "")
