"""Masks: which weights a ticket keeps. In memory one bool a weight, on disk one bit a weight; 1 means keep."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlcompress.artefacts import disk_errors, load_tensors
from vlcompress.errors import VlcompressError


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
        """Return the mask that prunes nothing, for weights of any shape."""
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
        """Return the fraction pruned of each weight."""
        return {name: 1 - int(mask.sum()) / mask.numel() for name, mask in self.items()}

    def sha256(self) -> str:
        """Return a hash of names, shapes and bits."""
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
        parameters = dict(model.named_parameters())
        for name, mask in self.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise VlcompressError(
                    f"mask of '{name}' {tuple(mask.shape)} does not fit this model: "
                    "use the mask with the family and size it was found on"
                )
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)

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


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpack(packed: Tensor, shape: list[int]) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=math.prod(shape))
    return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)
