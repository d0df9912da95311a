"""Iterative magnitude pruning inside somebody's own training loop: masks that hold, rounds, rewinding.

The loop stays as it is. An optimizer that is held zeroes what is pruned after each of its steps, whatever runs it: a
plain loop, gradient accumulation, AMP with or without a scaler, DDP (where every process computes the same masks of the
same weights), or the Trainer of transformers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling, Family
from vlcompress.models.encoder.anatomy import check_untied
from vlcompress.models.module import ModuleFamily
from vlcompress.pruning.allocation import parse_allocation
from vlcompress.pruning.criterion import parse_criterion
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.schedule import levels, parse_schedule
from vlcompress.training.loop import MaskKeeper
from vlcompress.training.saliency import Saliency

SPARSITY = 0.7
"""What is pruned where nothing is said, as in recipes."""


class Pruner:
    """Masks of a model under training, from dense to a sparsity in rounds.

    One round of IMP is: train, `step`, `rewind`, train again. Without `rewind` it is gradual pruning.

    Args:
        model: under training, its weights as they are to be rewound to (θ0); wrapped in DDP or not. A copy of θ0 is
            kept on the CPU.
        pattern: what goes together: "unstructured", "block:RxC", "n:m", "head", "neuron", "neuron+head", or a mixture.
        criterion: "magnitude", "gradient", "movement", "high-magnitude" or "random". "gradient" and "movement" sum over
            the steps of held optimizers since the last `step`, `rewind` or first `hold`.
        schedule: "linear:P", "geometric:F", "levels:P,P,..." or "oneshot".
        sparsity: fraction of the prunable weights that is pruned at the end, in [0, 1); None is the pattern's own
            (0.5 of 2:4), else 0.7.
        allocation: "global", "uniform" or "modality".
        weights: names of the weights to prune; None takes the linears of attention and feed-forward layers in blocks.
        family: the adapter of a model that `vlcompress.load` gave; None finds the layers by structure.
        seed: of "random".

    Raises:
        VlcompressError: no prunable layer; an attention that is not understood; tied weights; a name that is unknown; a
            pattern that does not divide a weight, or does not reach the sparsity.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pattern: str = "unstructured",
        criterion: str = "magnitude",
        schedule: str = "linear:10",
        sparsity: float | None = None,
        allocation: str = "global",
        weights: Sequence[str] | None = None,
        family: Family | None = None,
        seed: int = 0,
    ) -> None:
        self._pattern, self._ranking = parse_pattern(pattern), parse_criterion(criterion)
        self._allocation, self._seed = parse_allocation(allocation), seed
        if self._ranking.calibrated:
            raise VlcompressError(
                f"criterion '{criterion}' ranks by what examples show, and a Pruner sees none: give magnitude, "
                "gradient or movement, or prune by a recipe"
            )
        found, self._couplings = _prunable(_bare(model), weights, family or ModuleFamily())
        self._weights = {name: weight for name, weight in _bare(model).named_parameters() if name in found}
        wanted = sparsity if sparsity is not None else self._pattern.own_sparsity or SPARSITY
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        self._pattern.check(shapes, self._couplings, wanted)
        self.levels = levels(parse_schedule(schedule), wanted)
        self.round = 0
        self._model, self._masks = _bare(model), Masks.keep_all(self._weights)
        self._keeper: MaskKeeper | None = None
        self._saliency: Saliency | None = None
        self._held: dict[torch.optim.Optimizer, tuple[Any, ...]] = {}
        self._start: dict[str, Tensor] = {}
        self.mark()

    @property
    def masks(self) -> Masks:
        """What is kept, bool by weight name, True = keep."""
        return self._masks

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that is pruned now, in [0, 1]."""
        return self._masks.sparsity

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep what is pruned at zero after every step of an optimizer; holding it twice changes nothing.

        Args:
            optimizer: of this model, wrapped (by accelerate) or not.

        Raises:
            VlcompressError: it has none of the prunable weights.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)
        mine = {id(weight) for weight in self._weights.values()}
        if not any(id(one) in mine for group in optimizer.param_groups for one in group["params"]):
            raise VlcompressError(
                "this optimizer has none of the prunable weights: make it of the parameters of the model that the "
                "Pruner was given, not of a copy"
            )
        if optimizer not in self._held:
            hooks = optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)
            self._held[optimizer] = hooks
            self._renew()

    def release(self, optimizer: torch.optim.Optimizer) -> None:
        """Let go of an optimizer that takes no more steps, and of its moments."""
        for hook in self._held.pop(getattr(optimizer, "optimizer", optimizer), ()):
            hook.remove()

    def apply(self) -> None:
        """Set what is pruned to zero once more, where something else than a held optimizer wrote weights."""
        self._masks.apply(self._model)

    def step(self) -> bool:
        """Prune to the next level of the schedule, by the weights as they are; what is gone stays gone.

        Under DDP every process calls it.

        Returns:
            Whether anything was left to do: False once the schedule is at its end, and nothing is changed then.

        Raises:
            VlcompressError: a weight is not finite, there are no sums for the criterion, or processes disagree.
        """
        if self.round == len(self.levels):
            return False
        criterion = self._ranking.of(self._seed, self._sums())
        self._masks = prune(
            {name: weight.detach().cpu() for name, weight in self._weights.items()},
            self._masks,
            self.levels[self.round],
            pattern=self._pattern,
            criterion=criterion,
            allocation=self._allocation,
            couplings=self._couplings,
        )
        _check_agreed(self._masks)
        self.round += 1
        self._renew()
        return True

    @torch.no_grad()
    def rewind(self) -> None:
        """Put every parameter and buffer back to θ0 (see `mark`), what is pruned to zero; forget the moments.

        Held optimizers lose their state; their learning rates stay, and so does a scheduler.
        """
        for name, tensor in self._state():
            tensor.copy_(self._start[name])
        for optimizer in self._held:
            optimizer.state.clear()
        self._renew()

    def mark(self) -> None:
        """Rewind to the weights as they are now, from here on: late rewinding, some steps into dense training."""
        self._start = {name: tensor.detach().cpu().clone() for name, tensor in self._state()}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, one) for name, one in self._model.state_dict().items() if isinstance(one, Tensor))

    def _renew(self) -> None:
        """Apply the masks, and begin the sums anew, where the weights are now."""
        self._keeper = MaskKeeper(self._model, self._masks)
        for optimizer in self._held:
            self._keeper.enforce(optimizer)
        self._saliency = None
        if self._ranking.saliency is not None:  # of one step, whichever: how many there will be is not known
            self._saliency = Saliency(self._ranking.saliency, self._model, self._weights, 1)

    def _sums(self) -> dict[str, Tensor]:
        """Take the sums for the criterion; {} for one that needs none."""
        if self._ranking.saliency is None:
            return {}
        sums = {} if self._saliency is None else self._saliency.sums
        if not any(bool(total.any()) for total in sums.values()):
            raise VlcompressError(
                f"criterion '{self._ranking}' ranks by gradients and there were none: hold(optimizer), and train "
                "before step()"
            )
        return {name: total.cpu() for name, total in sums.items()}

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._saliency is not None:
            self._saliency.add(0)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        assert self._keeper is not None
        self._keeper.enforce(optimizer)


def _bare(model: nn.Module) -> nn.Module:
    inside: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inside


def _prunable(model: nn.Module, weights: Sequence[str] | None, family: Family) -> tuple[set[str], Sequence[Coupling]]:
    """Name the weights to prune, and the units that live in several of them."""
    if weights is None:
        return set(family.prunable(model, family.policies[0]).names), family.couplings(model)
    sizes = {name: parameter.dim() for name, parameter in model.named_parameters(remove_duplicate=False)}
    odd = next((name for name in weights if sizes.get(name, 0) < 2), None)
    if odd is not None or not weights:
        what = "no weight is named" if odd is None else f"'{odd}' is no weight matrix of this model"
        raise VlcompressError(f"{what}: give names of named_parameters() that have two axes or more")
    check_untied(model, set(weights))
    return set(weights), ()


def _check_agreed(masks: Masks) -> None:
    """Refuse masks that differ between processes: from there on they would train different models."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    hashes: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(hashes, masks.sha256())
    if len(set(hashes)) > 1:
        raise VlcompressError(
            "the processes found different masks: their weights differ, so something beside DDP changes them; give "
            "every process the same weights before step()"
        )
