"""Which examples a step takes, and where its chance comes from: functions of (seed, step) alone."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    """Which examples a step takes: a fresh permutation each epoch, the last incomplete batch dropped."""

    examples: int
    batch: int
    seed: int

    def indices(self, step: int) -> list[int]:
        """Pick the examples of step `step` (from 0)."""
        per_epoch = max(1, self.examples // self.batch)
        epoch, position = divmod(step, per_epoch)
        order = _permutation(self.examples, self.seed, epoch)
        return order[position * self.batch : (position + 1) * self.batch].tolist()


@lru_cache(maxsize=1)
def _permutation(examples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(examples, generator=generator(seed, "epoch", epoch))


def mix(seed: int, purpose: str, step: int) -> int:
    """Derive a 63-bit seed for one purpose at one step."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """Make the source of chance for one purpose at one step."""
    return torch.Generator().manual_seed(mix(seed, purpose, step))
