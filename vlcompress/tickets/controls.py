"""Controls: what a ticket must beat to mean anything. Each changes one thing about it.

*random* keeps a random mask of the same pattern and sparsity on θ0 (uniform over all prunable units together; the paper
does not say whether its random masks match the sparsity of each layer). *shuffle* keeps the ticket's mask on θ0 with
the entries of each weight shuffled (θ''0 of Gan et al. 2022). *reinit* keeps the mask on fresh random weights.
*language* keeps the mask on the weights of a language model (θ'0), which knows no pictures; what it lacks is fresh.
*unstructured* runs the same rounds without the block constraint: what the blocks cost.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def shuffled(tensors: Mapping[str, Tensor], names: Iterable[str], seed: int) -> dict[str, Tensor]:
    """Give the tensors with the entries of each named one permuted within itself, by chance from `seed`."""
    return dict(tensors) | {name: _permuted(tensors[name], f"{seed}:{name}") for name in names}


def _permuted(tensor: Tensor, key: str) -> Tensor:
    rng = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little"))
    return tensor.reshape(-1)[torch.randperm(tensor.numel(), generator=rng)].reshape(tensor.shape)
