"""Checkpoints of a training that is under way: written whole, read back to the very same bits.

Chance is a function of (seed, step) in this project (see loop.py), so the state to keep is the step, the weights and
the optimizer's moments; the sampler's position and the random generators follow from the step. The state of PyTorch's
generator is stored and put back all the same, for a loss that draws from it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vlcompress.artefacts import load_tensors, save_tensors, seal, unseal, writing
from vlcompress.errors import VlcompressError
from vlcompress.training.saliency import Saliency

DOCUMENT = "checkpoint.json"


def save_checkpoint(
    folder: Path,
    *,
    identity: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    saliency: Saliency | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state after `step` steps.

    Args:
        folder: replaced as a whole.
        identity: hash of what is being trained, so that no other training picks this up.
        step: steps done.
        model: every parameter and buffer is stored.
        optimizer: its moments are stored under the parameters' names.
        saliency: its sums are stored, where there are any.
        scaler: of float16 losses; its state is stored, with how many steps it let the optimizer take.
    """
    with writing(folder) as temporary:
        save_tensors(temporary / "model.safetensors", distinct(model.state_dict()))
        save_tensors(temporary / "optimizer.safetensors", optimizer_state(model, optimizer))
        save_tensors(temporary / "rng.safetensors", {"torch": torch.get_rng_state()})
        if saliency is not None:
            save_tensors(temporary / "saliency.safetensors", saliency.sums)
        scaled = {} if scaler is None else {"scaler": scaler.state_dict(), "taken": _taken(optimizer)}
        seal(temporary, DOCUMENT, {"identity": identity, "step": step, **scaled})


def load_checkpoint(
    folder: Path,
    *,
    identity: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    saliency: Saliency | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> int:
    """Put the state back into model, optimizer, sums and scaler, and give the steps done, 0 if there is no checkpoint.

    Raises:
        VlcompressError: the checkpoint is damaged.
    """
    if not (folder / DOCUMENT).is_file():
        return 0
    document = unseal(folder, DOCUMENT)
    if document["identity"] != identity:
        raise VlcompressError(f"'{folder}' is the checkpoint of another training: remove that folder")
    model.load_state_dict(load_tensors(folder / "model.safetensors"), strict=False)
    parameters = dict(model.named_parameters())
    for key, moment in load_tensors(folder / "optimizer.safetensors").items():
        kind, _, name = key.partition(".")
        optimizer.state[parameters[name]][kind] = moment.to(parameters[name].device)
    if saliency is not None:
        saliency.restore(load_tensors(folder / "saliency.safetensors"))
    if scaler is not None:
        scaler.load_state_dict(document["scaler"])
        for group in optimizer.param_groups:
            group["taken"] = document["taken"]
    torch.set_rng_state(load_tensors(folder / "rng.safetensors")["torch"])
    return int(document["step"])


def _taken(optimizer: torch.optim.Optimizer) -> int:
    """Return how many steps the optimizer has taken, where it counts them."""
    return int(optimizer.param_groups[0].get("taken", 0))


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give the optimizer's moments, each keyed ``<kind>.<parameter>`` (kinds: exp_avg, exp_avg_sq; momentum_buffer)."""
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put saved weights back, all of them; of tied weights one name is enough (see `distinct`)."""
    missing = distinct(model.state_dict()).keys() - weights.keys()
    unexpected = weights.keys() - model.state_dict().keys()
    if missing or unexpected:
        raise RuntimeError(f"the weights are not this model's: missing {missing}, unexpected {unexpected}")
    model.load_state_dict(dict(weights), strict=False)


def distinct(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name of those that share storage (tied weights): safetensors stores no tensor twice."""
    first = {value.data_ptr(): name for name, value in reversed(state.items())}
    return {name: value for name, value in state.items() if first[value.data_ptr()] == name}
