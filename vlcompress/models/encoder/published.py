"""What a Hugging Face folder says of its encoder, as one plain configuration.

architecture        the class of transformers that is built
transformers        its configuration, as in config.json
reads               what is read, of "input_ids", "pixel_values" and "visual_embeds"
pooling             "pooler", "first" (token) or "mean" (of the words): what stands for a row
dual                whether text and pictures meet in one space only
matching            whether retrieval's head starts from the checkpoint's matching head
picture             {"height", "width", "crop", "resample", "mean", "std"}; {} where no picture is read
text                {"pad", "end", "whole"}: padding's id, the id that pools (or None), whether rows are always padded
                    to the longest (SigLIP); {} where no text is read
vocab_size, max_position_embeddings, visual_feat_dim        of text and regions, where they are read
"""

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from vlcompress.artefacts import read_json
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Config
from vlcompress.models.checkpoints import local_folder
from vlcompress.models.encoder.model import PIXELS, REGIONS, TEXT, is_crossed, is_dual, readable

WANTED: Mapping[str, tuple[str, ...]] = {
    "retrieval": (TEXT, PIXELS),
    "classification": (PIXELS,),
    "sentences": (TEXT,),
    "vqa": (TEXT, PIXELS, REGIONS),
}
"""What a task shows of its examples: a model must read one of them, and reads all that it can."""
_NEEDED = {"retrieval": (TEXT, PIXELS), "vqa": (TEXT,)}
_BILINEAR = 2  # Pillow's number
_OLD_END = 2  # in configurations of CLIP from before transformers wrote the true one
_PLAIN = (0.5, 0.5, 0.5)


def read_config(checkpoint: str, task: str) -> Config:
    """Read the configuration of a published encoder for a task.

    Args:
        checkpoint: a Hugging Face folder or hub name.
        task: a key of `WANTED`.

    Raises:
        VlcompressError: no config.json, a model type that this transformers has not, no encoder, one that does not read
            what the task shows; the hub does not answer.
    """
    folder = local_folder(checkpoint)
    document = _document(folder)
    name, backbone = _backbone(document, checkpoint)
    return describe(name, backbone, task, folder)


def describe(name: str, backbone: Any, task: str, folder: Path | None = None) -> Config:
    """Describe a backbone of the class `name`; what its `folder` says of pictures and pooling is taken over.

    Raises:
        VlcompressError: it does not read what the task shows.
    """
    if task not in WANTED:
        raise unknown("task of an encoder", task, WANTED)
    reads = [one for one in readable(backbone) if one in WANTED[task]]
    lacking = [one for one in _NEEDED.get(task, WANTED[task][:1]) if one not in reads]
    if lacking:
        has = ", ".join(readable(backbone)) or "none of input_ids and pixel_values"
        raise VlcompressError(f"{name} reads {has}, and {task} shows {', '.join(lacking)}: give another model or task")
    own = backbone.config
    if PIXELS in reads:
        _check_fixed_pictures(name, backbone)
    config: Config = {
        "model_type": "encoder",
        "architecture": name,
        "transformers": _plain_config(own),
        "reads": reads,
        "pooling": _pooling(backbone, folder),
        "dual": is_dual(backbone),
        "matching": task == "retrieval" and hasattr(backbone, "itm_head"),
        "picture": _picture(own, folder) if PIXELS in reads else {},
        "text": _text(own, backbone) if TEXT in reads else {},
    }
    if TEXT in reads:
        config |= {"vocab_size": text_config(own).vocab_size, "max_position_embeddings": _places(own)}
    return config | ({"visual_feat_dim": own.visual_embedding_dim} if REGIONS in reads else {})


def _check_fixed_pictures(name: str, backbone: Any) -> None:
    """Refuse a model that reads patches of pictures of any size (NaFlex): no reader here cuts them.

    Raises:
        VlcompressError: names what it wants beside the pixels.
    """
    vision = backbone.get_image_features if is_dual(backbone) else backbone.forward
    wanted = {"spatial_shapes", "pixel_position_ids", "image_grid_thw", "grid_thw"} & {*signature(vision).parameters}
    if wanted:
        raise VlcompressError(
            f"{name} reads patches of pictures of any size and wants '{wanted.pop()}' beside them: neither the readers "
            "here nor the ONNX exporter know these; give a checkpoint that reads pictures of one size (SigLIP, and "
            "SigLIP2 where it is no NaFlex)"
        )


def _plain_config(own: Any) -> dict[str, Any]:
    """Spell a configuration of transformers out, without what names a place or a version."""
    spelled = json.loads(own.to_json_string(use_diff=False))
    return {name: value for name, value in spelled.items() if name not in ("transformers_version", "_name_or_path")}


def text_config(own: Any) -> Any:
    """Find the configuration of what reads text."""
    return getattr(own, "text_config", None) or own


def _document(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise VlcompressError(f"'{folder}' has no config.json: give a folder that transformers' save_pretrained wrote")
    document = read_json(path)
    if "model_type" not in document:
        raise VlcompressError(f"'{path}' names no model_type: give the config.json of transformers")
    return dict(document)


def _backbone(document: Mapping[str, Any], checkpoint: str) -> tuple[str, Any]:
    """Build a skeleton: of the class that the folder asks for where it crosses text with pictures, else the plain one.

    Raises:
        VlcompressError: transformers has no such model, or it is none that reads text or pictures.
    """
    import transformers
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_MAPPING,
    )

    kind = str(document["model_type"])
    if kind not in CONFIG_MAPPING:
        raise VlcompressError(
            f"'{checkpoint}' is a '{kind}', which transformers {transformers.__version__} does not have: give a model "
            "that it has (code in a checkpoint is never run)"
        )
    own = transformers.AutoConfig.for_model(**document)
    writes = type(own) in MODEL_FOR_CAUSAL_LM_MAPPING and type(own) not in MODEL_FOR_MASKED_LM_MAPPING
    if writes or own.is_encoder_decoder or type(own) not in MODEL_MAPPING:
        raise VlcompressError(f"'{checkpoint}' is a '{kind}', which is no encoder: give an encoder of text or pictures")
    asked = getattr(transformers, next(iter(document.get("architectures") or ()), ""), None)
    if asked is not None and is_crossed(skeleton := _skeleton(asked, own)):
        return asked.__name__, skeleton
    plain: Any = MODEL_MAPPING[type(own)]
    plain = plain[0] if isinstance(plain, Sequence) else plain
    return plain.__name__, _skeleton(plain, own)


def _skeleton(kind: Any, own: Any) -> Any:
    try:
        with torch.device("meta"):
            return kind(own)
    except (TypeError, ValueError, AttributeError) as error:
        raise VlcompressError(f"this configuration makes no {kind.__name__}: {error}") from error


def _pooling(backbone: Any, folder: Path | None) -> str:
    """Choose what stands for a row: as sentence-transformers' folder says, a pooler that has weights, or the first."""
    asked = {} if folder is None else _optional(folder / "1_Pooling" / "config.json")
    if asked.get("pooling_mode_mean_tokens"):
        return "mean"
    has = any("pooler." in name for name, _ in backbone.named_parameters())
    if is_dual(backbone) or is_crossed(backbone) or (has and TEXT not in readable(backbone)):
        return "first"
    return "pooler" if has and (folder is None or _stored(folder, "pooler.")) else "first"


def _stored(folder: Path, part: str) -> bool:
    """Say whether a folder's weights have a tensor with `part` in its name, as far as a header tells."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return any(part in name for name in read_json(index).get("weight_map", {}))
    if not single.is_file():
        return True
    with safe_open(single, framework="pt") as file:
        return any(part in name for name in file.keys())  # noqa: SIM118


def _picture(own: Any, folder: Path | None) -> dict[str, Any]:
    """Say how a picture becomes pixels; without a preprocessor's file, squares from -1 to 1."""
    side = getattr(getattr(own, "vision_config", None) or own, "image_size", 224)
    height, width = (side, side) if isinstance(side, int) else side
    said = {} if folder is None else _optional(folder / "preprocessor_config.json")
    return {
        "height": int(height),
        "width": int(width),
        "crop": bool(said.get("do_center_crop", False)),
        "resample": int(said.get("resample") or _BILINEAR),
        "mean": list(said.get("image_mean") or _PLAIN),
        "std": list(said.get("image_std") or _PLAIN),
    }


def _text(own: Any, backbone: Any) -> dict[str, Any]:
    """Say how rows of words are padded. SigLIP's text tower reads its last place, so that every row must be full."""
    text, tower = text_config(own), getattr(backbone, "text_model", None)
    whole = hasattr(tower, "head")
    ends = is_dual(backbone) and not whole
    pad = getattr(text, "pad_token_id", None)
    fits = pad is not None and 0 <= pad < text.vocab_size
    return {"pad": pad if fits else 0, "end": _end(text) if ends else None, "whole": whole}


def _end(text: Any) -> int:
    """Name the token that CLIP's text tower pools at; where its configuration says 2, it takes the highest id."""
    return int(text.vocab_size - 1 if text.eos_token_id == _OLD_END else text.eos_token_id)


def _places(own: Any) -> int:
    """Count the words that position embeddings reach; RoBERTa's begin after the padding's own."""
    text = text_config(own)
    offset = text.pad_token_id + 1 if "roberta" in text.model_type or text.model_type == "bridgetower_text_model" else 0
    return int(text.max_position_embeddings) - offset


def _optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
