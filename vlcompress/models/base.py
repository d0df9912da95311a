"""What a model family must tell the rest of the toolchain: a new family is one folder here and one parity test."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from torch import Tensor, nn

from vlcompress.data.examples import Pictures
from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.building import materialise, skeleton
from vlcompress.models.hub import HubForm
from vlcompress.models.objective import PretrainingSpec

CORNERS = ("x1", "y1", "x2", "y2")
"""The box of a region, in fractions of the picture's width and height."""

UNCUT = 1 << 30
"""`Family.longest_text` of a family that cuts no text."""

Config = dict[str, Any]
"""A model's plain JSON configuration: everything that `Family.build` needs, and nothing that is not JSON."""


HeadKind = Literal[
    "answers", "pair", "choice", "region", "match", "embeddings", "classes", "boxes", "pixels", "pretraining"
]
"""What a head's logits mean, and the shape of `Family.logits`.

answers [B, labels]: a closed list of answers (VQA, GQA; SNLI-VE's three labels). pair [B, 2]: false, true of a
statement about two images (NLVR2). choice [B, 2]: wrong, right of one choice, each choice a sample of its own (VCR).
region [B, R]: one score a region, padded regions at -1e4 (RefCOCO). match [B]: how well text and image belong together
(retrieval). embeddings [B, 2, D]: the text's and the image's, whose product says how well they belong together
(retrieval by two towers). classes [B, labels]: classification of an image or a text. boxes [B, h, w, 5 + labels] and
pixels [B, labels, H, W]: what is where in a picture (`vlcompress.models.resnet.dense`). pretraining: every objective at
once; has no `logits`.
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
            value projection (attention weights sum to 1) or, after the activation, the up-projection; "" where no
            single producer decides it (a gated neuron).
        owner: name of the module that stores the unit count (``num_attention_heads``), "" where none does.
        activation: name of the module between producer and consumer of a neuron; "" where the module that holds the
            producer has it inside.
        turned: whether query and key are turned by their position, so that the channels of a head have an order.
    """

    kind: Literal["head", "neuron"]
    producers: tuple[str, ...]
    consumer: str
    units: int
    unit_size: int
    constant_from: str
    owner: str = ""
    activation: str = ""
    turned: bool = False


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

    @classmethod
    def of(cls, model: nn.Module, kept_because: Callable[[str], str], backbone_prefix: str) -> "Prunable":
        """Sort a model's parameters into those that are pruned and those that are not.

        Args:
            model: gives names and sizes; a parameter that modules share counts once.
            kept_because: says why a parameter is not pruned, "" where it is.
            backbone_prefix: start of the names of the backbone's parameters.
        """
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        excluded = {name: reason for name in sizes if (reason := kept_because(name))}
        names = tuple(name for name in sizes if name not in excluded)
        backbone = sum(size for name, size in sizes.items() if name.startswith(backbone_prefix))
        return cls(names, excluded, sum(sizes[name] for name in names), backbone)


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


class Family(ABC):
    """One model family (LXMERT, UNITER, ...): all that the toolchain knows of it.

    An adapter in ``models/<family>/adapter.py`` fills this in; `vlcompress.models.contract` holds it to it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """Its name among people."""
    sizes: ClassVar[Mapping[str, Config]]
    """Configurations by size; "tiny" is for tests."""
    heads: ClassVar[tuple[HeadKind, ...]]
    """Kinds of head that can be put on the backbone."""
    tasks: ClassVar[tuple[str, ...]]
    """Tasks that its official code has, by their names in `vlcompress.tasks.registry`."""
    reads: ClassVar[Literal["regions", "pixels"]]
    """What the images of its samples are."""
    backbone_prefix: ClassVar[str]
    """Start of the names of every backbone parameter; the others belong to the head."""
    policies: ClassVar[tuple[str, ...]]
    """Pruning policies that `prunable` knows, the usual one first."""
    hub_name: ClassVar[str]
    """The published checkpoint: a hub name, or the official file's name where no hub has it."""
    longest_text: ClassVar[int]
    """Longest text in word pieces, [CLS] and [SEP] included; longer text is cut. 0 reads no text, `UNCUT` cuts none."""
    longest_trained: ClassVar[int] = 0
    """Longest text to train on, in word pieces without [CLS] and [SEP]: longer ones are left out. 0 leaves out none."""
    labelled_heads: ClassVar[tuple[HeadKind, ...]] = ("answers", "classes", "boxes", "pixels")
    """Heads that make no model without labels."""
    inherited: ClassVar[tuple[str, ...]] = ()
    """Starts of the names of head parameters that come with the backbone even where the head is made anew: retrieval's
    ranking head, which officially starts from the matching head of pre-training."""
    normalises_answers: ClassVar[bool] = False
    """Whether the official code normalises the annotators' answers of VQA before it counts them."""
    retrieval: ClassVar[Literal["triplet", "false-texts", "contrastive", ""]] = ""
    """Pairs and loss that retrieval is trained with (`vlcompress.tasks.retrieval`)."""
    perturbed: ClassVar[Mapping[str, str]] = {}
    """What adversarial training moves: "text" names the module of the word embeddings, "image" an input; {} is none."""
    official_order: ClassVar[bool] = False
    """Whether the weights stand in the state dict in the order of the official code, so that positions name them."""
    answers_file: ClassVar[str] = ""
    """Where a data folder lists the answers of the pre-trained answer head that `load_answers` takes; "" has none."""
    recipes: ClassVar[Path | None] = None
    """Folder of a recipe for each of its tasks and sizes, TASK-SIZE.toml; None is vlcompress/recipes/NAME."""
    pretraining: ClassVar[PretrainingSpec | None] = None
    """How it is pre-trained; None where there is no pre-training here."""

    @abstractmethod
    def config(self, size: str, *, vocab_size: int, feature_dim: int) -> Config:
        """Size a configuration to a vocabulary and a region-feature width, in the keys of a Hugging Face config.json.

        Args:
            size: one of `sizes`.
            vocab_size: word pieces of the tokenizer; not used where no text is read.
            feature_dim: width of one region's features; not used where pixels are read.

        Raises:
            VlcompressError: unknown size.
        """

    def of(self, config: Config) -> "Family":
        """Make the adapter for models of a configuration; itself, unless what they read depends on it."""
        return self

    def config_of(self, size: str, checkpoint: str | None, task: str, vocabulary: WordPiece, width: int) -> Config:
        """Make the configuration of a run: that of a size, unless the family takes its checkpoint's.

        Args:
            size: one of `sizes`.
            checkpoint: where the weights come from; None for random ones.
            task: what the model is to do.
            vocabulary: of the words that it reads.
            width: of region features, 0 where there are none.

        Raises:
            VlcompressError: unknown size, or a checkpoint that says no configuration that fits.
        """
        return self.config(size, vocab_size=vocabulary.vocab_size, feature_dim=width)

    def words_of(self, checkpoint: str | None) -> WordPiece | None:
        """Read the tokenizer that a checkpoint brings along; None where the data's vocabulary is to be taken."""
        return None

    @abstractmethod
    def construct(self, config: Config, head: Head) -> nn.Module:
        """Run the model's constructor; `config` is without "model_type".

        Raises:
            ValueError: a configuration that fits no model.
        """

    @abstractmethod
    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly; a head of another task is the one allowed difference, and is reported.

        Args:
            model: as made by `build`.
            checkpoint: a Hugging Face folder or hub name, a .safetensors file with Hugging Face's names, or a file in
                the layout of the official code.
            fresh_head: leave the model's head alone even where the checkpoint's would fit (but see `inherited`).

        Raises:
            VlcompressError: an unreadable file; missing, unexpected or misshapen tensors, by name.
        """

    @abstractmethod
    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name the weights that a policy prunes, and why the others stay.

        Raises:
            VlcompressError: unknown policy.
        """

    @abstractmethod
    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List the attention heads and feed-forward neurons of the model as it is now."""

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad samples to one batch with the model's own argument names, first axis batch (or a multiple of it)."""

    @abstractmethod
    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs [batch, text] and [batch, regions, ...]; all rows but the first are padded at random."""

    @abstractmethod
    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes of each input that may vary: {"input_ids": {0: "batch", 1: "text"}, ...}."""

    @abstractmethod
    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model: its head's scores, float32, before any sigmoid or softmax; shapes at `HeadKind`."""

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """Make a model with BERT's fresh weights (normal, 0.02), the same for the same seed, float32, on the CPU.

        Raises:
            VlcompressError: as `skeleton`.
        """
        model = self.skeleton(config, head)
        materialise(model, seed=seed)
        return model

    def skeleton(self, config: Config, head: Head) -> nn.Module:
        """Make the model of `build` on the meta device: names and shapes without weights.

        Raises:
            VlcompressError: an unknown kind of head, no labels, or a configuration that fits no model.
        """
        if head.kind not in self.heads:
            raise unknown("kind of head", head.kind, self.heads)
        if head.kind in self.labelled_heads and not head.labels:
            raise VlcompressError(f"the head '{head.kind}' has no labels: give at least one answer or class")
        plain = {name: value for name, value in config.items() if name != "model_type"}
        try:
            return skeleton(lambda: self.construct(plain, head))
        except (ValueError, StrictDataclassError) as error:
            reason = error.__cause__ or error
            raise VlcompressError(f"this configuration makes no {self.title} model: {reason}") from error

    def load_answers(
        self, model: nn.Module, checkpoint: str, *, answers: Sequence[str], labels: Sequence[str]
    ) -> LoadReport:
        """Load a pre-trained answer head, giving each of the task's labels the row of the same answer.

        Args:
            model: with an answer head; its backbone is left alone.
            checkpoint: as for `load`.
            answers: the checkpoint's answers in the order of its rows.
            labels: the model's answers in the order of its rows.

        Raises:
            VlcompressError: the family has no such head; another width, or lists as long as neither head.
        """
        raise VlcompressError(f"the pre-training of {self.name} has no answer head: use head 'fresh'")

    def sized(self, size: str) -> Config:
        """Look up the configuration of a named size.

        Raises:
            VlcompressError: unknown size.
        """
        if size not in self.sizes:
            raise unknown(f"size of {self.name}", size, self.sizes)
        return {"model_type": self.name, **self.sizes[size]}

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Resize pictures as a model of this configuration reads them; region features were made beforehand."""
        return source

    def preprocessing(self, config: Config) -> Config:
        """Say as JSON how a question and an image become inputs, for whoever runs an exported file without torch.

        Returns:
            "reads", "longest_text" (in word pieces); of regions "feature_width" and the parts of a box, "boxes"; of
            pixels how a picture is resized, "shorter", "longest" and "multiple" as of
            `vlcompress.data.pixels.target_size`, or "square", by which "filter", and the channels' "mean" and "std".
        """
        return {
            "reads": self.reads,
            "longest_text": min(self.longest_text, config.get("max_position_embeddings", UNCUT)),
        }

    def modality_of(self, name: str) -> str:
        """Name the modality that a weight serves: "language", "vision", "cross", "joint" or "pooler"."""
        return "pooler" if "pooler" in name else "joint"

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put tensors of the shapes of weights (masks, say) from names of the official code under those here.

        What the official code fuses is taken apart; unknown names stay as they are.
        """
        return dict(tensors)

    def hub_form(self, config: Config, head: Head, weights: Mapping[str, Tensor]) -> HubForm | None:
        """Say as what transformers opens a model; None where it has no class for it.

        Args:
            config: without "model_type".
            head: of the model.
            weights: its state dict, tied weights once.
        """
        return None


def pretraining_of(family: Family) -> PretrainingSpec:
    """Look up how a family is pre-trained.

    Raises:
        VlcompressError: the family has no pre-training here.
    """
    if family.pretraining is None:
        raise VlcompressError(f"{family.name} has no pre-training here: take a family that has the task 'pretraining'")
    return family.pretraining


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
    """Move inputs to a model's device, floats in its dtype and whole numbers as they are."""
    like = next(model.parameters())
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
