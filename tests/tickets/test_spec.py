"""A training's name: pinned for trainings that exist, kept when a field is added, changed by every field's value."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from vlcompress.artefacts import distinguishing, identity
from vlcompress.tickets.spec import Teacher, TrainingSpec
from vlcompress.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(8, 16, 1e-3, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0)
DENSE = TrainingSpec(
    generation=1,
    family="lxmert",
    config={"hidden_size": 64},
    theta0="c" * 64,
    task="vqa",
    data=("a" * 64, "b" * 64),
    vocabulary="51dc5fe5558ac56831ebaffe3c86ef34e77fbbbab424072e683b8730bb9f4417",
    hyper=HYPER,
    seed=0,
    mask="dense",
    start="theta0",
    rewind_step=0,
)
MASK = "3d90894ba57b62b21533fb9b5fefb77ae5837977c799a91206d679909022532d"
OTHER: dict[str, Any] = {
    "generation": 2,
    "family": "uniter",
    "config": {"hidden_size": 65},
    "theta0": "d" * 64,
    "task": "gqa",
    "data": ("a" * 64, "c" * 64),
    "vocabulary": "e" * 64,
    "hyper": dataclasses.replace(HYPER, steps=9),
    "seed": 1,
    "mask": MASK,
    "start": "fresh",
    "rewind_step": 2,
    "held": False,
    "answers": ("yes", "no"),
    "language": "f" * 64,
    "permutation": "0" * 64,
    "saliency": "gradient",
    "distill": Teacher(1.0, "1" * 64),
    "adversarial": "text",
    "loss": "best-answer",
    "repaired": 256,
    "computed_on": {"device": "cuda sm_90", "dtype": "bf16"},
}


@pytest.mark.parametrize(
    ("changes", "sha256"),
    [
        ({}, "0034ca79daa5714b1ad0d20b846a68f19184a58b7f3782ba719a20f4dace898d"),
        ({"seed": 1, "mask": MASK}, "e1c607e9be9a6edf5b832d8f769f28f469a5f1db437ba5d0d7bdc01ee57812db"),
        (
            {
                "hyper": dataclasses.replace(HYPER, optimizer="adamw"),
                "seed": 2,
                "mask": MASK,
                "start": "rewound",
                "rewind_step": 2,
                "held": False,
                "answers": ("yes", "no"),
                "saliency": "gradient",
                "distill": Teacher(1.0, "9d6969e339971d440c83b045c6a08340083a8f3e9837a38faf6a5346a054b2d3"),
            },
            "e97ffad7510a37b38fec1ef0d4839a9869175964a95b76546070910e060f9ce8",
        ),
        (
            {"mask": MASK, "start": "language", "language": "d" * 64, "adversarial": "text+image:0.01"},
            "c4c865f9bb471c45bf0aff6f9f2283ad2024a813a8979193863c75cbcab08119",
        ),
        (
            {"computed_on": {"device": "cuda sm_90", "dtype": "bf16"}},
            "8aecfc92ae878755937b8bcb96ead66a361315a8bb89960d2bda79c997226ef5",
        ),
    ],
    ids=["dense", "masked", "distilled", "adversarial", "gpu"],
)
def test_trainings_that_are_done_keep_their_names(changes: dict, sha256: str) -> None:
    """Made by the version before there was a rule (28 November 2026)."""
    assert dataclasses.replace(DENSE, **changes).sha256 == sha256


def test_every_field_renames_where_it_is_not_at_its_default() -> None:
    assert OTHER.keys() == {field.name for field in dataclasses.fields(TrainingSpec)}
    names = {dataclasses.replace(DENSE, **{name: value}).sha256 for name, value in OTHER.items()}
    assert len(names | {DENSE.sha256}) == len(OTHER) + 1


@pytest.mark.parametrize("field", dataclasses.fields(Hyperparameters), ids=lambda field: field.name)
def test_every_hyperparameter_renames(field: dataclasses.Field) -> None:
    value = "sgd" if field.name == "optimizer" else 3
    assert dataclasses.replace(DENSE, hyper=dataclasses.replace(HYPER, **{field.name: value})).sha256 != DENSE.sha256


@dataclass(frozen=True)
class _LongerHyper(Hyperparameters):
    momentum: float = 0.9


@dataclass(frozen=True)
class _LongerSpec(TrainingSpec):
    pruned_by: str = "magnitude"
    tags: tuple[str, ...] = dataclasses.field(default_factory=tuple)


def test_a_new_field_at_its_default_renames_nothing() -> None:
    hyper = _LongerHyper(**vars(HYPER))
    spec = _LongerSpec(**{field.name: getattr(DENSE, field.name) for field in dataclasses.fields(DENSE)})
    assert dataclasses.replace(spec, hyper=hyper).sha256 == DENSE.sha256
    for changed in (
        dataclasses.replace(spec, hyper=dataclasses.replace(hyper, momentum=0.8)),
        dataclasses.replace(spec, pruned_by="chance"),
        dataclasses.replace(spec, tags=("a",)),
    ):
        assert changed.sha256 != DENSE.sha256


def test_what_is_hashed_is_what_is_written() -> None:
    assert identity(distinguishing(DENSE)) == DENSE.sha256
    assert DENSE.document()["hyper"] == {
        "steps": 8, "batch": 16, "learning_rate": 1e-3, "warmup": 0.1, "clip": 5.0, "weight_decay": 0.01,
        "head_rate": 1.0,
    }  # fmt: skip
