"""Checkpoints of a training that is under way: written whole, read back to the very same bits.

Every random number is a function of (seed, step) in this project (see loop.py), so the state to keep is the step, the
weights and the optimizer's moments; the sampler's position and the random generators follow from the step. The state of
PyTorch's generator is stored and put back all the same, for a loss that draws from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import load_tensors, save_tensors, seal, unseal, writing
from vlcompress.errors import VlcompressError
from vlcompress.training.saliency import Saliency

DOCUMENT = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training that is under way, and the folder that it is saved in.

    Attributes:
        folder: replaced as a whole.
        identity: hash of what is being trained, so that no other training picks it up.
        model: every parameter and buffer is saved.
        optimizer: its moments are saved under the parameters' names.
        saliency: its sums are saved, where there are any.
        scaler: of float16 losses; its state is saved, with how many steps it let the optimizer take.
    """

    folder: Path
    identity: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    saliency: Saliency | None = None
    scaler: torch.amp.GradScaler | None = None

    def save(self, step: int) -> None:
        """Write the state after `step` steps."""
        with writing(self.folder) as temporary:
            save_tensors(temporary / "model.safetensors", distinct(self.model.state_dict()))
            save_tensors(temporary / "optimizer.safetensors", self._moments())
            save_tensors(temporary / "rng.safetensors", {"torch": torch.get_rng_state()})
            if self.saliency is not None:
                save_tensors(temporary / "saliency.safetensors", self.saliency.sums)
            scaled: dict[str, Any] = {}
            if self.scaler is not None:
                taken = int(self.optimizer.param_groups[0].get("taken", 0))
                scaled = {"scaler": self.scaler.state_dict(), "taken": taken}
            seal(temporary, DOCUMENT, {"identity": self.identity, "step": step, **scaled})

    def load(self) -> int:
        """Put what was saved back, and return how many steps were done then; 0 if nothing was saved.

        Raises:
            VlcompressError: what was saved is damaged, or another training's.
        """
        if not (self.folder / DOCUMENT).is_file():
            return 0
        document = unseal(self.folder, DOCUMENT)
        if document["identity"] != self.identity:
            raise VlcompressError(f"'{self.folder}' is the checkpoint of another training: remove that folder")
        self.model.load_state_dict(load_tensors(self.folder / "model.safetensors"), strict=False)
        parameters = dict(self.model.named_parameters())
        for key, moment in load_tensors(self.folder / "optimizer.safetensors").items():
            kind, _, name = key.partition(".")
            self.optimizer.state[parameters[name]][kind] = moment.to(parameters[name].device)
        if self.saliency is not None:
            self.saliency.restore(load_tensors(self.folder / "saliency.safetensors"))
        if self.scaler is not None:
            self.scaler.load_state_dict(document["scaler"])
            for group in self.optimizer.param_groups:
                group["taken"] = document["taken"]
        torch.set_rng_state(load_tensors(self.folder / "rng.safetensors")["torch"])
        return int(document["step"])

    def _moments(self) -> dict[str, Tensor]:
        """Key the optimizer's moments ``<kind>.<parameter>`` (kinds: exp_avg, exp_avg_sq; momentum_buffer)."""
        return {
            f"{kind}.{name}": value
            for name, parameter in self.model.named_parameters()
            for kind, value in self.optimizer.state.get(parameter, {}).items()
        }


def restore(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put saved weights back, all of them; of tied weights one name is enough (see `distinct`)."""
    missing = distinct(model.state_dict()).keys() - weights.keys()
    unexpected = weights.keys() - model.state_dict().keys()
    if missing or unexpected:
        raise VlcompressError(
            f"these weights are not this model's (missing {sorted(missing)}, unexpected {sorted(unexpected)}): "
            "they were made by another version; train them again"
        )
    model.load_state_dict(dict(weights), strict=False)


def distinct(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name of those that share storage (tied weights): safetensors stores no tensor twice."""
    first = {value.data_ptr(): name for name, value in reversed(state.items())}
    return {name: value for name, value in state.items() if first[value.data_ptr()] == name}
