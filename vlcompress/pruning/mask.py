"""Masks: which weights a ticket keeps, and pruning further: exactly k units go, ties broken by index.

In memory a mask is one bool a weight, on disk one bit a weight; 1 means keep.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlcompress.artefacts import disk_errors, load_tensors
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.allocation import Allocation
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.pattern import Pattern
from vlcompress.pruning.select import Source, kept_units, smallest


class Masks(Mapping[str, Tensor]):
    """Bool tensors keyed by canonical weight name, checked on entry so that no later code has to.

    Args:
        tensors: a mask for each prunable weight, True = keep, in the order in which ties are broken.

    Raises:
        VlcompressError: a mask that is not bool.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        for name, mask in tensors.items():
            if mask.dtype != torch.bool:
                raise VlcompressError(f"mask of '{name}' is {mask.dtype}: masks are torch.bool, True = keep")
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @classmethod
    def keep_all(cls, weights: Mapping[str, Tensor]) -> "Masks":
        """Make the mask that prunes nothing, for weights of any shape."""
        return cls({name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()})

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(mask.numel() for mask in self.values())

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(int(mask.sum()) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that is pruned, in [0, 1]."""
        return 1 - self.kept / self.total

    def layer_sparsity(self) -> dict[str, float]:
        """Measure the fraction pruned of each weight."""
        return {name: 1 - int(mask.sum()) / mask.numel() for name, mask in self.items()}

    def sha256(self) -> str:
        """Hash names, shapes and bits."""
        digest = hashlib.sha256()
        for name, mask in self.items():
            digest.update(f"{name}{tuple(mask.shape)}".encode())
            digest.update(_pack(mask).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights of `model` to zero.

        Raises:
            VlcompressError: the model lacks a weight, or has it in another shape.
        """
        for name, weight in self._weights_in(model).items():
            weight.masked_fill_(~self[name].to(weight.device), 0)

    def check_held(self, model: nn.Module) -> None:
        """Refuse a model that has other weights, or one that is not zero where it is pruned.

        Raises:
            VlcompressError: see above; the weight is named.
        """
        for name, weight in self._weights_in(model).items():
            if bool((weight.detach()[~self[name].to(weight.device)] != 0).any()):
                raise VlcompressError(
                    f"weight '{name}' is not zero where its mask prunes it: the mask was not held in training; "
                    "masks.apply(model) prunes it now, and training goes on from there"
                )

    def _weights_in(self, model: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(model.named_parameters())
        for name, mask in self.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise VlcompressError(
                    f"mask of '{name}' {tuple(mask.shape)} does not fit this model: "
                    "use the mask with the family and size it was found on"
                )
        return {name: parameters[name] for name in self}

    def save(self, path: Path) -> None:
        """Write a uint8 vector of ceil(numel/8) bytes for each weight, with shapes and order in the metadata."""
        from safetensors.torch import save_file

        # one entry only: safetensors writes several in an order that changes from process to process
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.items()})
        with disk_errors(path):
            save_file({name: _pack(mask) for name, mask in self.items()}, path, metadata={"shapes": shapes})

    @classmethod
    def load(cls, path: Path) -> "Masks":
        """Read what :meth:`save` wrote.

        Raises:
            VlcompressError: no such file, a damaged one, or one that is not a mask file.
        """
        from safetensors import safe_open

        packed = load_tensors(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "shapes" not in metadata:
            raise VlcompressError(f"'{path}' is not a mask file: it has no 'shapes' in its metadata")
        return cls({name: _unpack(packed[name], shape) for name, shape in json.loads(metadata["shapes"]).items()})


def prune(
    weights: Mapping[str, Tensor],
    masks: Masks,
    sparsity: float,
    *,
    pattern: Pattern,
    criterion: Criterion,
    allocation: Allocation,
    couplings: Sequence[Coupling] = (),
) -> Masks:
    """Prune further until a fraction `sparsity` of all units is gone; what is gone stays gone.

    Args:
        weights: the trained weights [out, in] of every name in `masks`.
        masks: what the rounds before have kept.
        sparsity: fraction of the original units pruned afterwards, in [0, 1]; the number is rounded to the nearest
            unit (Python's rounding), and is exact: ties at the threshold go by index, first weight first.
        pattern: what goes together. Every kind of layer that a mixture names loses the same share, so that all of them
            reach the sparsity; the others stay as they are.
        criterion: scores the weights.
        allocation: which units compete, within a kind.
        couplings: of the model; mixtures need them.

    Raises:
        VlcompressError: a weight that the pattern does not divide, one that is not finite, or a sparsity that the
            pattern cannot reach.
    """
    pruned = dict(masks)
    for contest in pattern.contests(weights, masks, sparsity, criterion, couplings):
        pruned |= contest.spread(_kept(contest.sources, contest.share, allocation))
    return Masks(pruned)


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpack(packed: Tensor, shape: list[int]) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=math.prod(shape))
    return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)


def _kept(sources: list[Source], sparsity: float, allocation: Allocation) -> dict[str, Tensor]:
    """Mark for each source what stays, bool [units]: in each group exactly the rounded number goes."""
    kept: dict[str, Tensor] = {}
    for group in allocation.groups(sources):
        count = round(sparsity * sum(source.units for source in group))
        kept |= kept_units(group, smallest(group, count))
    return kept
