"""ResNet tickets in detectors and segmenters: transformers' DETR and UPerNet around the same backbone.

Chen et al. (CVPR 2021, section 4.3) ask whether a ticket found on a pre-training task also serves detection and
segmentation. Here the ticket's convolutions and their mask go into such a model, and any training that holds the mask
(`vlcompress.training.loop.train`) goes on from there. Neither model needs timm or torchvision; DETR's own loss, which
matches boxes, needs SciPy.

    model = detection_model(config, labels, seed=0)
    masks = Masks(put_backbone(model, ticket_weights, ticket_masks))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config
from vlcompress.models.checkpoints import Tensors, listing
from vlcompress.models.resnet.adapter import use_cifar_stem

_ANCHOR = "embedder.embedder.convolution.weight"
_TICKET = "resnet."
_COUNT = "num_batches_tracked"  # DETR's frozen batch normalisation counts nothing


def detection_model(config: Config, labels: Sequence[str], *, seed: int, **sizes: Any) -> nn.Module:
    """Make a DETR with fresh weights around a ResNet; its batch normalisation is frozen, as DETR's is.

    Args:
        config: of the ResNet (`ResnetFamily.config`).
        labels: the classes of objects, without "no object".
        seed: of the weights; the global random state is left alone.
        sizes: of transformers' DetrConfig where they are not the published ones ("d_model", "num_queries", ...).
    """
    backbone = _backbone(config, [f"stage{len(config['depths'])}"])
    own = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False}

    def make() -> nn.Module:
        model: Any = DetrForObjectDetection(DetrConfig(backbone_config=backbone, **own, **_named(labels), **sizes))
        # transformers freezes every weight of its own ResNet here: it looks for the stages under another name.
        model.model.unfreeze_backbone()
        module: nn.Module = model
        return module

    return _seeded(make, config, seed)


def segmentation_model(config: Config, labels: Sequence[str], *, seed: int, **sizes: Any) -> nn.Module:
    """Make an UPerNet with fresh weights around a ResNet; arguments as of `detection_model`, classes of pixels."""
    stages = [f"stage{index}" for index in range(1, len(config["depths"]) + 1)]
    own = {"backbone_config": _backbone(config, stages), "use_auxiliary_head": False}
    return _seeded(
        lambda: UperNetForSemanticSegmentation(UperNetConfig(**own, **_named(labels), **sizes)), config, seed
    )


def put_backbone(
    model: nn.Module, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Put a ticket's backbone into a model that is built around a ResNet.

    Args:
        model: of `detection_model`, `segmentation_model`, or any other of transformers' with a ResNet backbone.
        weights: of a ticket, by canonical name; its classifier is left out.
        masks: of the ticket, bool, True = keep; the weights that they prune are set to zero.

    Returns:
        The masks under the model's own names, to be held in training.

    Raises:
        VlcompressError: the model has no ResNet, or weights that are missing, unexpected or of another shape.
    """
    prefix, own = _prefix(model), dict(model.state_dict())
    given = {name.removeprefix(_TICKET): value for name, value in weights.items() if name.startswith(_TICKET)}
    wanted = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
    _check(wanted, given)
    kept = {f"{prefix}{name.removeprefix(_TICKET)}": mask for name, mask in (masks or {}).items()}
    with torch.no_grad():
        for name, value in given.items():
            if name in wanted:
                wanted[name].copy_(value)
        for name, mask in kept.items():
            own[name].masked_fill_(~mask, 0)
    return kept


def _backbone(config: Config, outputs: Sequence[str]) -> ResNetConfig:
    plain = {name: value for name, value in config.items() if name not in ("model_type", "stem", "image_size")}
    return ResNetConfig(**plain, out_features=list(outputs))


def _named(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: row for row, label in enumerate(labels)}}


def _seeded(make: Callable[[], nn.Module], config: Config, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        if config["stem"] == "cifar":
            use_cifar_stem(model.get_submodule(_prefix(model).removesuffix(".")))
    return model


def _prefix(model: nn.Module) -> str:
    """Find the start of the backbone's names, with its dot."""
    found = [name.removesuffix(_ANCHOR) for name in model.state_dict() if name.endswith(f".{_ANCHOR}")]
    if len(found) != 1:
        raise VlcompressError(f"{type(model).__name__} is not built around one ResNet: no ticket can be put into it")
    return found[0]


def _check(wanted: Tensors, given: Tensors) -> None:
    shapes = (name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape)
    extra = (name for name in given.keys() - wanted.keys() if not name.endswith(_COUNT))
    found = {
        "missing": listing(wanted.keys() - given.keys()),
        "unexpected": listing(extra),
        "other shapes": listing(shapes),
    }
    problems = "; ".join(f"{kind}: {names}" for kind, names in found.items() if names)
    if problems:
        raise VlcompressError(
            f"the ticket's backbone does not fit this model and nothing was put into it. {problems}. Build the model "
            "with the configuration that the ticket was found with"
        )
