"""Any transformer encoder of transformers as a family: text, pictures or both, known by its configuration alone.

Shapes: B batch, T words, R regions, F feature width.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from vlcompress.data.examples import Pictures
from vlcompress.data.pixels import Framed
from vlcompress.data.published_tokenizer import PublishedTokenizer
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import UNCUT, Config, Coupling, Family, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.batches import padded, padding_mask, random_mask, random_regions, regions_of
from vlcompress.models.checkpoints import local_folder
from vlcompress.models.encoder.anatomy import couplings_of, in_block, prunable_names
from vlcompress.models.encoder.as_published import as_published
from vlcompress.models.encoder.loading import load_published
from vlcompress.models.encoder.model import PIXELS, REGIONS, TEXT, Encoder
from vlcompress.models.encoder.published import describe, read_config
from vlcompress.models.hub import HubForm
from vlcompress.models.transformer_layout import REASONS

CHECKPOINT = "checkpoint"
"""The size that is whatever the checkpoint's config.json says."""
_END = 3  # [SEP] of a vocabulary whose first tokens are BERT's special ones
_MODALITY = (
    (re.compile(r"cross"), "cross"),
    (re.compile(r"(^|\.)pooler\."), "pooler"),
    (re.compile(r"^encoder\.(language|joint\.text)"), "language"),
    (re.compile(r"^encoder\.(vision|joint\.(vision|visual|image))"), "vision"),
)


def _clip_size(width: int, heads: int, inner: int, layers: int, side: int, patch: int, words: int) -> Config:
    tower = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
    }
    return {
        "projection_dim": width,
        "text_config": {**tower, "max_position_embeddings": words},
        "vision_config": {**tower, "image_size": side, "patch_size": patch},
    }


class EncoderFamily(Family):
    """An encoder as the toolchain sees it; sizes are CLIP's, but for `CHECKPOINT`.

    Args:
        config: of the models that it is for (see `of`); {} knows none yet.
    """

    name = "encoder"
    title = "encoder"
    sizes: ClassVar[Mapping[str, Config]] = {
        "tiny": _clip_size(32, 4, 64, 2, 32, 8, 24),
        "small": _clip_size(128, 4, 512, 2, 64, 16, 24),
        CHECKPOINT: {},
    }
    heads: ClassVar[tuple[HeadKind, ...]] = ("classes", "answers", "match", "embeddings")
    tasks = ("retrieval", "classification", "vqa", "sentences")
    backbone_prefix = "encoder."
    hub_name = "openai/clip-vit-base-patch32"
    longest_text = UNCUT
    policies = ("bert-tickets",)

    def __init__(self, config: Config | None = None) -> None:
        self._config: Config = config or {}

    def of(self, config: Config) -> "EncoderFamily":
        """See `Family.of`: what is read, and how, is in the configuration."""
        return EncoderFamily(config)

    @property
    def inherited(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Family.inherited`: the head that starts from a matching head."""
        return ("head.",) if self._config.get("matching") else ()

    @property
    def reads(self) -> Literal["regions", "pixels"]:  # type: ignore[override]
        """See `Family.reads`."""
        return "regions" if REGIONS in self._config.get("reads", ()) else "pixels"

    @property
    def retrieval(self) -> Literal["contrastive", "false-texts"]:  # type: ignore[override]
        """See `Family.retrieval`: towers learn against the batch, crossed text against false texts."""
        return "contrastive" if self._config.get("dual") else "false-texts"

    def config(self, size: str, *, vocab_size: int, feature_dim: int = 0) -> Config:
        """See `Family.config`; for text and pictures."""
        return self._sized_config(size, "retrieval", vocab_size, _END)

    def config_of(self, size: str, checkpoint: str | None, task: str, vocabulary: WordPiece, width: int) -> Config:
        """See `Family.config_of`.

        Raises:
            VlcompressError: see `read_config`; words that the model was not made for.
        """
        if size != CHECKPOINT:
            return self._sized_config(size, task, vocabulary.vocab_size, vocabulary.sep_id)
        if checkpoint is None:
            raise VlcompressError(
                f"size '{CHECKPOINT}' is what a checkpoint says and none was given: give --model or --checkpoint a "
                "Hugging Face folder or a hub name"
            )
        config = read_config(checkpoint, task)
        _check_words(config, vocabulary, checkpoint)
        if config.get("visual_feat_dim", width) != width and width:
            raise VlcompressError(
                f"the data's region features are {width} wide, '{checkpoint}' takes {config['visual_feat_dim']}: give "
                "features of its detector"
            )
        return config

    def words_of(self, checkpoint: str | None) -> WordPiece | None:
        """See `Family.words_of`: a Hugging Face folder's own."""
        if checkpoint is None or Path(checkpoint).is_file():
            return None
        return PublishedTokenizer.find(local_folder(checkpoint))

    def _sized_config(self, size: str, task: str, vocab_size: int, end: int) -> Config:
        from transformers import CLIPConfig, CLIPModel

        sized = {name: value for name, value in self.sized(size).items() if name != "model_type"}
        if not sized:
            raise VlcompressError(f"size '{size}' has no configuration of its own: give tiny or small")
        words = {"vocab_size": vocab_size, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": 0}
        own = CLIPConfig(**sized | {"text_config": sized["text_config"] | words})
        with torch.device("meta"):
            return describe("CLIPModel", CLIPModel(own), task)

    def construct(self, config: Config, head: Head) -> nn.Module:
        """Make transformers' model with a head on it."""
        return Encoder(config, head)

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """See `Family.build`; fresh weights are transformers' own for the model, which are not BERT's everywhere."""
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self.construct(config, head)
        except (ValueError, StrictDataclassError) as error:
            reason = error.__cause__ or error
            raise VlcompressError(f"this configuration makes no {self.title} model: {reason}") from error

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """See `Family.load`; heads of other tasks in a Hugging Face folder are left out, and told."""
        return load_published(model, checkpoint, fresh_head=fresh_head)

    def hub_form(self, config: Config, head: Head, weights: Mapping[str, Tensor]) -> HubForm | None:
        """See `Family.hub_form`; a head that transformers has for the architecture, else the encoder alone."""
        return as_published(config, head, weights)

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name the linears of attention and feed-forward layers in the blocks.

        Raises:
            VlcompressError: unknown policy, an attention that is not understood, no such layer, or one that is tied.
        """
        if policy not in self.policies:
            raise unknown("pruning policy", policy, self.policies)
        names = prunable_names(model, self.couplings(model))
        if not names:
            raise VlcompressError(
                f"{self._config['architecture']} has no prunable layers: no block of it holds attention or a "
                "feed-forward layer; give a transformer encoder"
            )
        return Prunable.of(model, lambda name: "" if name in names else _reason(name), self.backbone_prefix)

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """See `Family.couplings`; found by structure (`vlcompress.models.encoder.anatomy`)."""
        return couplings_of(model)

    def modality_of(self, name: str) -> str:
        """Name the modality by the tower that a weight is in."""
        return next((modality for pattern, modality in _MODALITY if pattern.search(name)), "joint")

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Resize pictures as the model's preprocessor says."""
        said = config["picture"]
        return Framed(source, **{one: said[one] for one in ("height", "width", "crop", "resample")}) if said else source

    def preprocessing(self, config: Config) -> Config:
        """Add how a picture becomes pixels and how words are padded."""
        words = {} if config["text"] else {"longest_text": 0}
        return super().preprocessing(config) | words | {"picture": config["picture"], "text": config["text"]}

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad texts, scale pictures of one size, pad regions, whatever of these the model reads.

        Returns:
            input_ids and attention_mask int64 [B, T] (no mask where rows are always whole); pixel_values float32
            [B, 3, height, width], by channel minus the mean over the deviation; visual_embeds float32 [B, R, F] and
            visual_attention_mask int64 [B, R].
        """
        inputs: dict[str, Tensor] = {}
        if TEXT in self._reads:
            inputs |= self._words(padded([one.ids for one in samples]), padding_mask([one.ids for one in samples]))
        if PIXELS in self._reads:
            pixels = torch.from_numpy(np.stack([np.asarray(one.images[0], dtype=np.uint8) for one in samples]))
            inputs[PIXELS] = self._scaled(pixels.float() / 255)
        if REGIONS in self._reads:
            features = [regions_of(one.images[0]).features for one in samples]
            inputs |= {REGIONS: padded(features), "visual_attention_mask": padding_mask(features)}
        return inputs

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs of the form of `collate`; every text but the first is padded."""
        generator = torch.Generator().manual_seed(seed)
        inputs: dict[str, Tensor] = {}
        if TEXT in self._reads:
            visible = random_mask(batch, min(text, config["max_position_embeddings"]), generator)
            ids = torch.randint(1, config["vocab_size"], visible.shape, generator=generator)
            inputs |= self._words(_ended(ids, visible, config["text"]["end"]), visible)
        if PIXELS in self._reads:
            size = (batch, config["picture"]["height"], config["picture"]["width"], 3)
            inputs[PIXELS] = self._scaled(torch.rand(size, generator=generator))
        if REGIONS in self._reads:
            features, _ = random_regions(batch, regions, config["visual_feat_dim"], generator)
            inputs |= {REGIONS: features, "visual_attention_mask": random_mask(batch, regions, generator)}
        return inputs

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes that may vary: batch, text (but for rows that are always whole), regions."""
        words = {0: "batch"} if self._whole else {0: "batch", 1: "text"}
        text = {TEXT: words} if self._whole else {TEXT: words, "attention_mask": words}
        regions = {0: "batch", 1: "regions"}
        axes: dict[str, dict[str, dict[int, str]]] = {
            TEXT: text,
            PIXELS: {PIXELS: {0: "batch"}},
            REGIONS: {REGIONS: regions, "visual_attention_mask": regions},
        }
        return {name: named for one in self._reads for name, named in axes[one].items()}

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute [B, labels] (classes, answers), [B] (match) or [B, 2, D] (embeddings), before any softmax."""
        encoder: Any = model
        scores: Tensor
        if encoder.kind == "embeddings":
            scores = encoder.embeddings(inputs)
        else:
            scores = encoder.head(encoder.pooled(inputs))
        return scores[:, 0] if encoder.kind == "match" else scores

    @property
    def _reads(self) -> tuple[str, ...]:
        return tuple(self._config["reads"])

    @property
    def _whole(self) -> bool:
        return bool(self._config["text"].get("whole"))

    def _words(self, ids_BT: Tensor, visible_BT: Tensor) -> dict[str, Tensor]:
        """Put padding's id behind the words; rows that are always whole get it to their end, and no mask."""
        ids_BT = ids_BT.where(visible_BT.bool(), self._config["text"]["pad"])
        if not self._whole:
            return {TEXT: ids_BT, "attention_mask": visible_BT}
        missing = self._config["max_position_embeddings"] - ids_BT.shape[1]
        return {TEXT: nn.functional.pad(ids_BT, (0, missing), value=self._config["text"]["pad"])}

    def _scaled(self, pixels_BHWC: Tensor) -> Tensor:
        mean, deviation = (torch.tensor(self._config["picture"][one]) for one in ("mean", "std"))
        return ((pixels_BHWC - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def _ended(ids_BT: Tensor, visible_BT: Tensor, end: int | None) -> Tensor:
    """Close every row with the token that the model pools at, where it looks for one."""
    if end is None:
        return ids_BT
    last_B = visible_BT.sum(1) - 1
    ids_BT = ids_BT.where(ids_BT != end, 1)
    return ids_BT.scatter(1, last_B[:, None], end)


def _reason(name: str) -> str:
    """Say why a parameter stays that is neither attention's nor a feed-forward layer's."""
    if not name.startswith(EncoderFamily.backbone_prefix):
        return "task head: made anew for every task, never masked"
    outside = "neither attention nor feed-forward by its structure" if in_block(name) else "in no block"
    found = (reason for pattern, reason in REASONS if pattern.search(name))
    return next(found, f"{outside}: not among what this policy prunes")


def _check_words(config: Config, vocabulary: WordPiece, checkpoint: str) -> None:
    """Refuse a vocabulary that the checkpoint was not made with, as far as its configuration tells.

    Raises:
        VlcompressError: ids beyond the word embeddings, or another token at the end than the one that is pooled.
    """
    if not config["text"]:
        return
    end = config["text"]["end"]
    if vocabulary.vocab_size > config["vocab_size"] or end not in (None, vocabulary.sep_id):
        pooled = "" if end is None else f" and pools at token {end}, this one ends texts with {vocabulary.sep_id}"
        raise VlcompressError(
            f"the vocabulary has {vocabulary.vocab_size} tokens and is not that of '{checkpoint}', which knows "
            f"{config['vocab_size']}{pooled}: give the folder its tokenizer.json or vocab.txt, or --vocabulary"
        )
