"""The recipe of every cell (a family on a task) and size, composed of what family, task and size each bring.

Hyper-parameters of the published sizes are those of the official configurations; sparsities are the highest at which
Gan et al. (AAAI 2022, Tables 1, 3 and 4) still find relaxed winning tickets.
"""

from pathlib import Path
from typing import Any

from vlcompress.models.registry import family_named

Table = dict[str, dict[str, Any]]

BUILT_IN = Path(__file__).parent / "weights"

_SPARSITY = {"vilt": 0.3}
_USUAL_SPARSITY = 0.7
_SPARSITY_OF = {("uniter", task): 0.6 for task in ("nlvr2", "snli_ve", "retrieval")} | {("uniter", "vcr"): 0.5}

_FAMILY: Table = {
    "lxmert": {"optimizer": "bertadam", "epochs": 4.0, "batch": 32, "learning_rate": 5e-5, "clip": 5.0},
    "uniter": {"optimizer": "adamw", "clip": 2.0},
    "vilt": {"optimizer": "adamw", "epochs": 10.0, "batch": 256, "learning_rate": 1e-4, "clip": 1e6},  # not clipped
    "resnet": {
        "optimizer": "sgd",
        "epochs": 182.0,
        "batch": 256,
        "learning_rate": 0.1,
        "warmup": 1 / 182,
        "clip": 1e6,  # not clipped
        "weight_decay": 2e-4,
    },
}
"""What a family's tasks share (airsplay/lxmert run/, dandelin/ViLT config.py, Chen et al. CVPR 2021 Table 1)."""
_UNPUBLISHED: dict[str, Any] = {"optimizer": "adamw", "epochs": 4.0, "clip": 5.0}
"""What a family without a line above trains with."""

_PRUNING: Table = {"resnet": {"schedule": "geometric:0.2"}}
"""A fifth of what is left goes each round, everywhere but in the first convolution (Chen et al., CVPR 2021)."""

_CELL: dict[tuple[str, str], dict[str, Any]] = {
    ("lxmert", "gqa"): {"learning_rate": 1e-5},
    ("lxmert", "pretraining"): {"epochs": 2.0, "batch": 256, "learning_rate": 1e-4},
    ("vilt", "vqa"): {"head_rate": 10.0},
    ("vilt", "nlvr2"): {"batch": 128},
    # UNITER counts its batches in tokens over several GPUs; here they are examples, about as many.
    ("uniter", "vqa"): {"steps": 6000, "batch": 2048, "learning_rate": 8e-5, "head_rate": 10.0},
    ("uniter", "gqa"): {"steps": 6000, "batch": 2048, "learning_rate": 8e-5, "head_rate": 10.0},  # unpublished: VQA's
    ("uniter", "vcr"): {"steps": 8000, "batch": 128, "learning_rate": 6e-5},
    ("uniter", "nlvr2"): {"steps": 8000, "batch": 96, "learning_rate": 3e-5},
    ("uniter", "snli_ve"): {"steps": 4000, "batch": 512, "learning_rate": 8e-5},
    ("uniter", "refcoco"): {"steps": 10000, "batch": 128, "learning_rate": 6e-5},
    ("uniter", "retrieval"): {"steps": 20000, "batch": 1280, "learning_rate": 5e-5},
    ("uniter", "pretraining"): {"steps": 20000, "batch": 1024, "learning_rate": 5e-5, "warmup": 0.05, "clip": 5.0},
}
"""What differs in one cell. Pre-training takes a tenth of the published steps a round, as Gan et al. do."""

_SPLITS: Table = {
    "vqa": {"train": ["train", "nominival"], "score": "minival"},
    "gqa": {"train": ["train", "valid"], "score": "testdev"},
    "pretraining": {"train": ["mscoco_train", "mscoco_nominival", "vgnococo"], "score": "mscoco_minival"},
}
"""Where the papers train on more than the built-in data has; scores are on the development splits of the papers."""


def default_document(family: str, task: str, size: str, *, train: tuple[str, ...], score: str) -> Table:
    """Return a recipe as plain tables.

    Args:
        family: a family.
        task: one of its tasks.
        size: "tiny" (seconds, random weights), "small" (built-in data), or a published size.
        train, score: the task's usual splits.
    """
    data = {"task": task, "train": list(train), "score": score}
    document: Table = {"model": {"family": family, "size": size}, "data": data}
    if size == "tiny":
        sections = _tiny(document, family)
    else:
        sections = (_small if size in _BUILT_IN_SIZES else _published)(document, family, task)
    sections["pruning"] = {"prunable": family_named(family).policies[0], **sections["pruning"]}
    return document | sections


def _tiny(document: Table, family: str) -> Table:
    return {
        "model": {**document["model"], "checkpoint": "none"},
        "data": {**document["data"], "source": "scenes:tiny"},
        "pruning": {"schedule": "linear:25", "sparsity": 0.5, "controls": ["random"], **_PRUNING.get(family, {})},
        "training": {**_optimizer(family), "steps": 8, "batch": 16, "learning_rate": 1e-3},
    }


def _small(document: Table, family: str, task: str) -> Table:
    there = (BUILT_IN / f"{family}-{document['model']['size']}-scenes.safetensors").is_file()
    return {
        "model": {**document["model"], "checkpoint": "built-in" if there else "none"},
        "data": {**document["data"], "source": "scenes:small"},
        "pruning": _SMALL_PRUNING.get(family, _UNITS),
        "training": {**_optimizer(family), **_SMALL, **_SMALL_CELL.get((family, task), {})},
    }


def _published(document: Table, family: str, task: str) -> Table:
    return {
        "model": {**document["model"], "checkpoint": family_named(family).hub_name},
        "data": {**document["data"], **_SPLITS.get(task, {}), "source": "data"},
        "pruning": {
            "sparsity": _SPARSITY_OF.get((family, task), _SPARSITY.get(family, _USUAL_SPARSITY)),
            "controls": ["random"],
            "seeds": [0, 1, 2],
            **_PRUNING.get(family, {}),
        },
        "training": {**_FAMILY.get(family, _UNPUBLISHED), **_CELL.get((family, task), {})},
    }


_BUILT_IN_SIZES = ("small", "mini")
_SMALL: dict[str, Any] = {"steps": 300, "batch": 64, "learning_rate": 3e-4}
_PRETRAINED: dict[str, Any] = {"learning_rate": 7e-5, "head_rate": 30.0}
_SMALL_CELL: dict[tuple[str, str], dict[str, Any]] = {
    **{("lxmert", task): _PRETRAINED for task in ("gqa", "nlvr2")},
    ("resnet", "classification"): {"learning_rate": 0.1, "weight_decay": 2e-4},
}
_UNITS: dict[str, Any] = {
    "pattern": "neuron+head",
    "criterion": "gradient",
    "schedule": "levels:30,50,70",
    "sparsity": 0.7,
    "controls": ["random", "unstructured"],
}
"""What stock runtimes run fastest, ranked by what keeps it alive on models this narrow (study granularity)."""
_SMALL_PRUNING: Table = {"resnet": {**_PRUNING["resnet"], "sparsity": 0.5904, "controls": ["random"]}}


def _optimizer(family: str) -> dict[str, Any]:
    return {name: value for name, value in _FAMILY.get(family, _UNPUBLISHED).items() if name in ("optimizer", "clip")}
