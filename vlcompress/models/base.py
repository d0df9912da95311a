"""What a model family must tell the rest of the toolchain: a new family is one file here and one parity test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlcompress.data.examples import Pictures
from vlcompress.data.regions import Regions

Config = dict[str, Any]
"""A model's plain JSON configuration: everything that `Family.build` needs, and nothing that is not JSON."""


HeadKind = Literal["answers", "pair", "choice", "region", "match", "classes", "boxes", "pixels", "pretraining"]
"""What a head's logits mean, and the shape of `Family.logits`.

answers [B, labels]: a closed list of answers (VQA, GQA; SNLI-VE's three labels). pair [B, 2]: false, true of a
statement about two images (NLVR2). choice [B, 2]: wrong, right of one choice, each choice a sample of its own (VCR).
region [B, R]: one score a region, padded regions at -1e4 (RefCOCO). match [B]: how well text and image belong together
(retrieval). classes [B, labels]: image classification. boxes [B, h, w, 5 + labels] and pixels [B, labels, H, W]: what
is where in a picture (`vlcompress.models.resnet.dense`). pretraining: every objective at once; has no `logits`.
"""


@dataclass(frozen=True)
class Head:
    """A task head to be put on a family's backbone.

    Attributes:
        kind: what `Family.logits` gives, see `HeadKind`.
        labels: the answers or classes in the order of the head's outputs (kept with the model, since published orders
            differ); () for "region" and "match", which score what they are shown.
        variant: where a family has several heads of one kind (UNITER's NLVR2: "paired-attn", "paired", "triplet";
            ResNet's "momentum", for MoCo); "" is the official default.
    """

    kind: HeadKind
    labels: tuple[str, ...] = ()
    variant: str = ""


@dataclass(frozen=True)
class Sample:
    """What a model reads in one forward pass of one example, before padding; the same for every family.

    Attributes:
        ids: int64 [T], token ids with [CLS] and [SEP]; empty for a family that reads no text.
        types: int64 [T], segment of each token (all 0 but in VCR: 0 question, 2 answer, 3 rationale).
        images: one image, or NLVR2's two: Regions for families whose `reads` is "regions", uint8 [H, W, 3] RGB for
            those that read "pixels".
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    images: tuple[Regions | NDArray[np.uint8], ...]


@dataclass(frozen=True)
class Coupling:
    """Units that live in several weights at once and can only be removed together.

    Unit ``u`` is rows ``[u*unit_size, (u+1)*unit_size)`` of every producer (and of its bias) and the same columns of
    the consumer. An attention head has the producers query, key, value and the consumer output.dense; a feed-forward
    neuron has the producer intermediate.dense and the consumer output.dense.

    Attributes:
        kind: "head" or "neuron".
        producers: canonical weight names [units*unit_size, in].
        consumer: canonical weight name [out, units*unit_size].
        units: how many units there are.
        unit_size: rows of one unit (the head's width; 1 for a neuron).
        constant_from: the producer whose bias is what the consumer reads when that producer's rows are all zero: the
            value projection (attention weights sum to 1) or, after the activation, the up-projection.
        owner: name of the module that stores the unit count (``num_attention_heads``), "" where none does.
    """

    kind: Literal["head", "neuron"]
    producers: tuple[str, ...]
    consumer: str
    units: int
    unit_size: int
    constant_from: str
    owner: str = ""


@dataclass(frozen=True)
class Prunable:
    """Which weights a policy lets IMP prune.

    Attributes:
        names: canonical weight names, in state-dict order.
        excluded: every other parameter, with the reason why it is left alone.
        weights: number of prunable weights.
        backbone: number of parameters in the backbone (the second denominator that papers use).
    """

    names: tuple[str, ...]
    excluded: Mapping[str, str]
    weights: int
    backbone: int


@dataclass(frozen=True)
class LoadReport:
    """What a strict load did.

    Attributes:
        source: where the weights came from.
        loaded: how many tensors were taken.
        head: "loaded" (all of it), else "fresh" (the checkpoint had none, or one of another task; reason in `notes`).
        notes: one line for each allowed difference.
    """

    source: str
    loaded: int
    head: Literal["loaded", "fresh"]
    notes: tuple[str, ...] = field(default=())


class Family(Protocol):
    """One model family (LXMERT, UNITER, ...)."""

    name: str
    sizes: tuple[str, ...]
    heads: tuple[HeadKind, ...]
    """The kinds of head that the family's official code has: with a task's kind they say which cells exist."""
    reads: Literal["regions", "pixels"]
    """What the images of its samples are."""
    backbone_prefix: str
    """Start of the names of every backbone parameter; the others belong to the head."""
    inherited: tuple[str, ...]
    """Starts of the names of head parameters that come with the backbone even where the head is made anew: retrieval's
    ranking head, which officially starts from the matching head of pre-training."""

    def config(self, size: str, *, vocab_size: int, feature_dim: int) -> Config:
        """Return the configuration of a named size for a vocabulary and a region-feature width."""

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """Make the model with fresh weights, the same for the same seed, independent of the global random state."""

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly: a folder, a file in the official layout, or a hub name.

        With `fresh_head` the model keeps its own head even where the checkpoint's would fit.

        Raises:
            VlcompressError: missing or unexpected keys (all listed), shapes of another architecture.
        """

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name the weights that the policy ("bert-tickets") prunes, and why the others stay."""

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List the attention heads and feed-forward neurons of the model as it is now."""

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Give the pictures as a model of this configuration reads them (resized); families of regions change none."""

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad samples to one batch with the model's own argument names, first axis batch (or a multiple of it)."""

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs [batch, text] and [batch, regions, ...] with the model's own argument names."""

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes of each input that may vary: {"input_ids": {0: "batch", 1: "text"}, ...}."""

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model and give its head's scores, float32, before any sigmoid or softmax; shapes at `HeadKind`."""


def scores_of(family: Family, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run a model for inference, on the device and in the dtype that its weights have.

    Args:
        family: of the model.
        model: in eval mode.
        inputs: on any device; floats are cast to the weights' dtype.

    Returns:
        The head's scores, float32 on the CPU, once the device has finished (shapes at `HeadKind`).
    """
    with torch.inference_mode():
        return family.logits(model, inputs_for(model, inputs)).float().cpu()


def inputs_for(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return inputs on a model's device, floats in its dtype and whole numbers as they are."""
    like = next(model.parameters())
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
