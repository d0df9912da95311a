"""What `Family` asks of an adapter, tried on a tiny model: each clause holds, or names what is missing and the fix.

Shapes: B batch, R regions. Clauses see a family as the toolchain does, through `Family` alone; tasks and recipes lie in
layers above (`vlcompress.bench.check_family`).
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Family, Head, HeadKind, Sample

MODALITIES = ("language", "vision", "cross", "joint", "pooler")
"""What `Family.modality_of` may answer."""
WORDS, WIDTH = 50, 16
"""Vocabulary and region-feature width of the tiny model."""
_LABELS: dict[HeadKind, tuple[str, ...]] = {
    "pair": ("false", "true"),
    "choice": ("wrong", "right"),
    "region": (),
    "match": (),
}
_IMAGES: dict[HeadKind, int] = {"pair": 2}


class BrokenClauseError(VlcompressError):
    """A clause does not hold.

    Args:
        problem: what was found.
        fix: what to do about it.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem, self.fix = problem, fix


@dataclass(frozen=True)
class Finding:
    """How a family did on one clause.

    Attributes:
        clause: what was tried.
        what: what was found.
        fix: what to do about it; "" where the clause holds.
    """

    clause: str
    what: str
    fix: str = ""


def missing_attributes(kind: type[Family]) -> tuple[str, ...]:
    """List what `Family` asks for and a class does not say: class attributes without a default, abstract methods."""
    said = (name for name in Family.__annotations__ if not hasattr(kind, name))
    return (*said, *sorted(getattr(kind, "__abstractmethods__", ())))


def require(held: object, problem: str, fix: str) -> None:
    """Hold a family to something.

    Raises:
        BrokenClauseError: `held` is false.
    """
    if not held:
        raise BrokenClauseError(problem, fix)


def judge(clause: str, check: Callable[[], str]) -> Finding:
    """Run a check and tell how it ended; whatever else it raises is a finding too, as the family is being written."""
    try:
        return Finding(clause, check())
    except BrokenClauseError as broken:
        return Finding(clause, broken.problem, broken.fix)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return Finding(clause, f"{type(error).__name__}: {reason}", "mend what raises this in the family's adapter")


def check_contract(kind: type[Family]) -> list[Finding]:
    """Hold a family to every clause; without all its attributes there is nothing to try the others on."""
    said = judge("attributes", lambda: _attributes(kind))
    if said.fix:
        return [said]
    tiny = Tiny(kind())
    return [said, *(judge(name, lambda clause=clause: clause(tiny)) for name, clause in CLAUSES.items())]  # type: ignore[misc]


class Tiny:
    """A family's smallest models, and inputs for them, made once."""

    def __init__(self, family: Family) -> None:
        self.family = family.of(family.config("tiny", vocab_size=WORDS, feature_dim=WIDTH))

    @cached_property
    def config(self) -> Config:
        """The configuration of size "tiny"."""
        return self.family.config("tiny", vocab_size=WORDS, feature_dim=WIDTH)

    @cached_property
    def model(self) -> nn.Module:
        """The model with its first head, seed 0."""
        return self.build(self.family.heads[0], 0)

    def head(self, kind: HeadKind) -> Head:
        """A head with as many labels as its kind takes."""
        return Head(kind, _LABELS.get(kind, ("red", "blue", "green")))

    def build(self, kind: HeadKind, seed: int) -> nn.Module:
        """Make a model in eval mode."""
        return self.family.build(self.config, self.head(kind), seed=seed).eval()

    def inputs(self, *, batch: int = 4, text: int = 6, regions: int = 5) -> dict[str, Tensor]:
        """Make example inputs."""
        return self.family.example_inputs(self.config, batch=batch, text=text, regions=regions, seed=1)

    def scored(self) -> Iterator[tuple[HeadKind, nn.Module]]:
        """Make a model for each kind of head that has logits."""
        for kind in self.family.heads:
            if kind != "pretraining":
                yield kind, self.build(kind, 0)


def _attributes(kind: type[Family]) -> str:
    missing = missing_attributes(kind)
    require(not missing, f"it lacks {', '.join(missing)}", "say them as vlcompress/models/base.py (Family) asks")
    require("tiny" in kind.sizes, f"sizes are {', '.join(kind.sizes)}", "add 'tiny', seconds of training, for tests")
    odd = [head for head in kind.heads if head not in get_args(HeadKind)]
    require(kind.heads and not odd, f"heads {odd or 'are none'}", f"take some of {', '.join(get_args(HeadKind))}")
    require(kind.policies, "policies are none", "name one: which weights IMP prunes")
    pretrained = ("pretraining" in kind.heads) == (kind.pretraining is not None)
    require(pretrained, "the head 'pretraining' or the attribute `pretraining` is there alone", "give both, or neither")
    return f"{len(kind.sizes)} sizes, {len(kind.heads)} kinds of head, {len(kind.policies)} policies"


def _build(tiny: Tiny) -> str:
    kind = tiny.family.heads[0]
    first, again, other = (dict(tiny.build(kind, seed).named_parameters()) for seed in (0, 0, 1))
    same = all(torch.equal(value, again[name]) for name, value in first.items())
    require(same, "the same seed gives two models", "draw weights from Family.build's generator alone")
    changed = any(not torch.equal(value, other[name]) for name, value in first.items())
    require(changed, "every seed gives the same model", "let Family.build make the weights")
    odd = [name for name, value in first.items() if (value.dtype, value.device.type) != (torch.float32, "cpu")]
    require(not odd, f"{', '.join(odd[:3])} are not float32 on the CPU", "make them so in `construct`")
    inside = sum(name.startswith(tiny.family.backbone_prefix) for name in first)
    outside = len(first) - inside
    require(inside, f"no parameter starts with '{tiny.family.backbone_prefix}'", "mend `backbone_prefix`")
    require(outside, f"every parameter starts with '{tiny.family.backbone_prefix}'", "keep the head's names apart")
    return f"{inside} tensors in the backbone, {outside} in the head '{kind}', the same for the same seed"


def _load(tiny: Tiny) -> str:
    family, kind = tiny.family, tiny.family.heads[0]
    tensors = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    victim = family.prunable(tiny.model, family.policies[0]).names[0]
    other = tiny.build(kind, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(tensors, path)
        family.load(other, str(path))
        lost = [name for name, value in other.state_dict().items() if not torch.equal(value, tensors[name])]
        require(not lost, f"{', '.join(lost[:3])} came back changed", "load every tensor by the name it was saved by")
        for what, wrong in _damaged(tensors, victim, family.backbone_prefix):
            save_file(wrong, path)
            _refuses(family, tiny.build(kind, 1), str(path), what)
    return f"{len(tensors)} tensors come back as saved; missing, unexpected and misshapen ones are refused"


def _damaged(tensors: Mapping[str, Tensor], victim: str, prefix: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    yield f"{victim} missing", {name: value for name, value in tensors.items() if name != victim}
    yield f"{prefix}surplus unexpected", {**tensors, f"{prefix}surplus": torch.zeros(2)}
    yield f"{victim} misshapen", {**tensors, victim: tensors[victim][:1].clone()}


def _refuses(family: Family, model: nn.Module, checkpoint: str, what: str) -> None:
    try:
        family.load(model, checkpoint)
    except VlcompressError as error:
        name = what.split()[0]
        require(name in str(error), f"the error for {what} does not name it", "let `load_strictly` check the tensors")
    else:
        raise BrokenClauseError(f"loads a checkpoint with {what}", "let `load_strictly` copy the tensors")


def _prunable(tiny: Tiny) -> str:
    parameters = dict(tiny.model.named_parameters())
    counts = []
    for policy in tiny.family.policies:
        found = tiny.family.prunable(tiny.model, policy)
        require(found.names, f"policy '{policy}' prunes nothing", "name the weights of its blocks")
        odd = {*found.names, *found.excluded} ^ parameters.keys()
        require(not odd, f"policy '{policy}' misjudges {sorted(odd)[:3]}", "sort every parameter (Prunable.of)")
        silent = [name for name, reason in found.excluded.items() if not reason]
        require(not silent, f"policy '{policy}' keeps {silent[:3]} without a reason", "say why in its reasons")
        weights = sum(parameters[name].numel() for name in found.names)
        require(weights == found.weights, f"policy '{policy}' counts {found.weights} of {weights}", "use Prunable.of")
        counts.append(f"{policy}: {len(found.names)} tensors, {100 * weights / found.backbone:.0f} % of the backbone")
    return "; ".join(counts)


def _couplings(tiny: Tiny) -> str:
    shapes = {name: value.shape for name, value in tiny.model.named_parameters()}
    modules = dict(tiny.model.named_modules())
    couplings = tiny.family.couplings(tiny.model)
    for one in couplings:
        gone = [name for name in (*one.producers, one.consumer) if name not in shapes]
        require(not gone, f"a {one.kind} couples {gone}, which the model lacks", "name weights of the model")
        width = one.units * one.unit_size
        odd = [name for name in one.producers if shapes[name][0] != width]
        odd += [one.consumer] if shapes[one.consumer][1] != width else []
        require(not odd, f"{odd} do not have {one.units} units of {one.unit_size}", "couple rows to columns")
        require(
            one.constant_from in ("", *one.producers), f"{one.constant_from} produces no {one.kind}", "name a producer"
        )
        require(not one.owner or one.owner in modules, f"no module '{one.owner}'", "name the one that counts its units")
    kinds = ", ".join(sorted({f"{one.kind}s" for one in couplings})) or "units (none can be removed)"
    return f"{len(couplings)} layers of {kinds}"


def _inputs(tiny: Tiny) -> str:
    first, second = tiny.inputs(), tiny.inputs(batch=6, text=9, regions=7)
    axes = tiny.family.dynamic_axes()
    odd = first.keys() ^ axes.keys()
    require(not odd, f"{sorted(odd)} are inputs without axes, or axes without input", "name the same in both")
    for name, value in first.items():
        moved = {axis for axis, size in enumerate(value.shape) if size != second[name].shape[axis]}
        closed = moved - axes[name].keys()
        require(not closed, f"axis {closed} of '{name}' varies and is not open", "name it in `dynamic_axes`")
    for name, value in second.items():
        require(value.shape[0] == 6, f"'{name}' has {value.shape[0]} rows for a batch of 6", "put the batch first")
    return ", ".join(f"{name} [{', '.join(_axis(axes[name], first[name]))}]" for name in first)


def _axis(names: Mapping[int, str], value: Tensor) -> Iterator[str]:
    return (names.get(axis, str(size)) for axis, size in enumerate(value.shape))


def expected_shape(kind: HeadKind, labels: int, batch: int) -> tuple[int | None, ...]:
    """Say what `Family.logits` gives for `batch` rows; None where the size depends on the pictures (`HeadKind`)."""
    shapes: dict[HeadKind, tuple[int | None, ...]] = {
        "pair": (batch // 2, 2),
        "choice": (batch, 2),
        "region": (batch, None),
        "match": (batch,),
        "embeddings": (batch, 2, None),
        "boxes": (batch, None, None, 5 + labels),
        "pixels": (batch, labels, None, None),
    }
    return shapes.get(kind, (batch, labels))


def _logits(tiny: Tiny) -> str:
    inputs, told = tiny.inputs(), []
    half = {name: value[:2] for name, value in inputs.items()}
    for kind, model in tiny.scored():
        with torch.inference_mode():
            scores, fewer = (tiny.family.logits(model, given) for given in (inputs, half))
        wanted = expected_shape(kind, len(tiny.head(kind).labels), 4)
        fits = len(wanted) == scores.dim() and all(
            size in (None, got) for size, got in zip(wanted, scores.shape, strict=True)
        )
        require(fits, f"'{kind}' gives {list(scores.shape)}, not {list(wanted)}", "give what HeadKind says")
        require(scores.dtype == torch.float32, f"'{kind}' gives {scores.dtype}", "give float32")
        require(scores.isfinite().all(), f"'{kind}' gives NaN or infinity", "mask padding with a finite number")
        near = torch.allclose(scores[: len(fewer)], fewer, atol=1e-4)
        require(near, f"'{kind}': a row's scores depend on the other rows", "let no row look at another, in eval mode")
        told.append(f"{kind} {list(scores.shape)}")
    return ", ".join(told)


def _collate(tiny: Tiny) -> str:
    told = []
    for kind, model in tiny.scored():
        samples = [_sample(tiny, _IMAGES.get(kind, 1), size) for size in (3, 5)]
        inputs = tiny.family.collate(samples)
        gone = tiny.family.dynamic_axes().keys() - inputs.keys()
        require(not gone, f"batches lack {sorted(gone)}", "make what `example_inputs` makes")
        with torch.inference_mode():
            scores = tiny.family.logits(model, inputs)
        require(len(scores) == 2, f"2 samples for '{kind}' get {len(scores)} scores", "one a sample; two rows a pair")
        told.append(kind)
    return f"samples of different lengths become a batch for {', '.join(told)}"


def _sample(tiny: Tiny, images: int, size: int) -> Sample:
    ids = np.arange(1, size + 1, dtype=np.int64)[: tiny.family.longest_text]
    return Sample(ids, np.zeros_like(ids), tuple(_image(tiny, size) for _ in range(images)))


def _image(tiny: Tiny, count: int) -> Regions | NDArray[np.uint8]:
    return tiny.family.pictures(tiny.config, _OneImage(count)).pixels("") if tiny.family.reads == "pixels" else (
        _OneImage(count).regions("")
    )  # fmt: skip


class _OneImage:
    """Pictures of one image, of as many regions and as wide as `count` says."""

    feature_dim = WIDTH

    def __init__(self, count: int) -> None:
        self.count = count

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        return True

    def has_pixels(self, image: str) -> bool:
        return True

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        classes, sure = np.zeros(self.count, np.int64), np.ones(self.count, np.float32)
        boxes = np.tile(np.array([1, 2, 30, 40], np.float32), (self.count, 1))
        features = np.ones((self.count, WIDTH), np.float32)
        return Regions("", 64, 64, boxes, features, classes, sure, classes, sure)

    def pixels(self, image: str) -> NDArray[np.uint8]:
        return np.zeros((64, 16 * self.count, 3), np.uint8)


def _modalities(tiny: Tiny) -> str:
    names = tiny.family.prunable(tiny.model, tiny.family.policies[0]).names
    found = [tiny.family.modality_of(name) for name in names]
    odd = sorted({one for one in found if one not in MODALITIES})
    require(not odd, f"weights belong to {odd}", f"let `modality_of` answer one of {', '.join(MODALITIES)}")
    return ", ".join(f"{found.count(one)} {one}" for one in MODALITIES if one in found)


def _graph(tiny: Tiny) -> str:
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # no numbers, as while a graph is captured
    inputs = {name: fake.from_tensor(value.to("meta")) for name, value in tiny.inputs().items()}
    for kind, model in tiny.scored():
        model.to("meta")
        try:
            with fake:
                tiny.family.logits(model, inputs)
        except (NotImplementedError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise BrokenClauseError(
                f"'{kind}' asks for a tensor's numbers ({reason})",
                "compute with masks in place of `if`, `.item()` and boolean indices: no CUDA graph can take those",
            ) from error
    return "no forward pass asks for a tensor's numbers"


def _optional(tiny: Tiny) -> str:
    family, names = tiny.family, {name for kind in tiny.family.heads for name in tiny.build(kind, 0).state_dict()}
    for prefix in family.inherited:
        held = any(name.startswith(prefix) for name in names)
        require(held, f"inherited '{prefix}' starts no tensor", "name a head's tensors in `inherited`")
    for place, name in family.perturbed.items():
        known: Any = [one.removesuffix(".weight") for one in names] if place == "text" else tiny.inputs()
        require(name in known, f"perturbed {place} '{name}' is not there", "name the embedding's module, or an input")
    own = type(family).load_answers is not Family.load_answers
    require(own == bool(family.answers_file), "answers_file or load_answers is there alone", "give both, or neither")
    return "what it says beyond that is there"


CLAUSES: dict[str, Callable[[Tiny], str]] = {
    "build": _build,
    "strict load": _load,
    "prunable": _prunable,
    "couplings": _couplings,
    "inputs": _inputs,
    "logits": _logits,
    "collate": _collate,
    "modalities": _modalities,
    "one graph": _graph,
    "optional": _optional,
}
"""In the order in which they are tried."""
