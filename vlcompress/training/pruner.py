"""Iterative magnitude pruning inside somebody's own training loop: masks that hold, rounds, rewinding.

The loop stays as it is. An optimizer that is held zeroes what is pruned after each of its steps, whatever runs it: a
plain loop, gradient accumulation, AMP with or without a scaler, DDP (where every process computes the same masks of the
same weights), or the Trainer of transformers.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling, Family
from vlcompress.models.encoder.anatomy import check_untied
from vlcompress.models.module import ModuleFamily, Output, class_forward, named_inputs
from vlcompress.pruning.allocation import parse_allocation
from vlcompress.pruning.criterion import Ranking, parse_criterion
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.mixture import check_layers
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.schedule import levels, parse_schedule
from vlcompress.training.calibration import EXAMPLES, SCORES, check_linear
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
        pattern: what goes together: "unstructured", "block:RxC", "n:m", "head", "neuron", "layer", "neuron+head", or a
            mixture.
        criterion: "magnitude", "gradient", "movement", "wanda", "fisher", "high-magnitude" or "random". "gradient" and
            "movement" sum over the steps of held optimizers since the last `step`, `rewind` or first `hold`; "wanda"
            and "fisher" look at `examples` at each `step`.
        schedule: "linear:P", "geometric:F", "levels:P,P,..." or "oneshot".
        sparsity: fraction of the prunable weights that is pruned at the end, in [0, 1); None is the pattern's own
            (0.5 of 2:4), else 0.7.
        allocation: "global", "uniform" or "modality".
        weights: names of the weights to prune; None takes the linears of attention and feed-forward layers in blocks.
        family: the adapter of a model that `vlcompress.load` gave; None finds the layers by structure.
        seed: of "random".
        examples: one batch of real inputs, without labels, for "wanda" and "fisher", as for `vlcompress.compile`; at
            most 256 rows of it are looked at, one at a time.
        output: which output these judge by, as for `vlcompress.compile`.

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
        examples: Any = None,
        output: Output | None = None,
    ) -> None:
        self._pattern, self._ranking = parse_pattern(pattern), parse_criterion(criterion)
        self._allocation, self._seed = parse_allocation(allocation), seed
        check_layers(self._pattern, allocation, targeted=False)
        self._examples = _rows(_bare(model), self._ranking, examples)
        self._family = family or ModuleFamily(output=output)
        found, self._couplings = _prunable(_bare(model), weights, self._family)
        if self._ranking.name == "wanda":
            check_linear(_bare(model), found)
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
            self._renew(_sums_of(self._saliency))

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

    def state_dict(self) -> dict[str, Tensor]:
        """Take down where it is, to go on in another process beside the model's and the optimizer's own states.

        Returns:
            Tensors on the CPU by name: the round, the levels, masks, θ0, and the criterion's sums so far.
        """
        parts = {"masks": self._masks, "start": self._start, "sums": _sums_of(self._saliency)}
        state = {f"{part}.{name}": one.cpu().clone() for part, named in parts.items() for name, one in named.items()}
        levels = torch.tensor(self.levels, dtype=torch.float64)
        return state | {"round": torch.tensor(self.round), "levels": levels, f"criterion {self._ranking}": levels[:0]}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict` of a Pruner that was made alike; what it prunes is set to zero.

        Raises:
            VlcompressError: it is of another model, schedule or criterion.
        """
        sums = _part(state, "sums")  # none where no optimizer is held yet
        own = {name: one for name, one in self.state_dict().items() if not name.startswith("sums.")}
        for name in sorted({*own} ^ {name for name in state if not name.startswith("sums.")}):
            raise _other_pruner(f"{'it has no' if name in own else 'only it has'} '{name}'")
        odd = next((name for name, one in own.items() if state[name].shape != one.shape), None)
        if odd is not None:
            raise _other_pruner(f"'{odd}' is {tuple(state[odd].shape)} there and {tuple(own[odd].shape)} here")
        if not torch.equal(state["levels"], own["levels"]):
            raise _other_pruner(f"its levels are {state['levels'].tolist()}, here they are {list(self.levels)}")
        self.round = int(state["round"])
        found = masks_in(state)
        self._masks = Masks({name: found[name] for name in self._masks})  # in this order: equal scores are cut by it
        self._start = _part(state, "start")
        self._renew(sums)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, one) for name, one in self._model.state_dict().items() if isinstance(one, Tensor))

    def _renew(self, sums: Mapping[str, Tensor] | None = None) -> None:
        """Apply the masks, and begin the sums anew or go on from `sums`, where the weights are now."""
        self._keeper = MaskKeeper(self._model, self._masks)
        for optimizer in self._held:
            self._keeper.enforce(optimizer)
        self._saliency = None
        if self._ranking.saliency is not None:  # of one step, whichever: how many there will be is not known
            self._saliency = Saliency(self._ranking.saliency, self._model, self._weights, 1)
            if sums:
                self._saliency.restore(sums)

    def _sums(self) -> dict[str, Tensor]:
        """Take the sums for the criterion; {} for one that needs none."""
        if self._ranking.calibrated:
            return self._calibrated()
        if self._ranking.saliency is None:
            return {}
        sums = _sums_of(self._saliency)
        if not any(bool(total.any()) for total in sums.values()):
            raise VlcompressError(
                f"criterion '{self._ranking}' ranks by gradients and there were none: hold(optimizer), and train "
                "before step()"
            )
        return {name: total.cpu() for name, total in sums.items()}

    def _calibrated(self) -> dict[str, Tensor]:
        """Look at the examples with the model as it is, in eval mode and without mixed precision."""
        modes = {module: module.training for module in self._model.modules()}
        try:
            with class_forward(self._model):
                score = SCORES[self._ranking.name]
                return dict(score(self._model.eval(), self._family, self._examples, [*self._weights]))
        finally:
            for module, training in modes.items():
                module.training = training

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._saliency is not None:
            self._saliency.add(0)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        assert self._keeper is not None
        self._keeper.enforce(optimizer)


def _bare(model: nn.Module) -> nn.Module:
    inside: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inside


def _rows(model: nn.Module, ranking: Ranking, examples: Any) -> list[dict[str, Tensor]]:
    """Cut a batch into its rows, for the criteria that look at examples.

    Raises:
        VlcompressError: such a criterion without examples.
    """
    if not ranking.calibrated:
        if examples is not None:
            warnings.warn(
                f"examples have no effect with criterion '{ranking}': wanda and fisher look at them", stacklevel=3
            )
        return []
    if examples is None:
        raise VlcompressError(
            f"criterion '{ranking}' ranks by what examples show: give one batch of real inputs by examples=, or take "
            "magnitude, gradient or movement"
        )
    batch = named_inputs(model, examples)
    count = min(len(next(iter(batch.values()))), EXAMPLES)
    return [{name: value[row : row + 1] for name, value in batch.items()} for row in range(count)]


def masks_in(state: Mapping[str, Tensor]) -> Masks:
    """Take the masks out of a `Pruner.state_dict`."""
    return Masks(_part(state, "masks"))


def _sums_of(saliency: Saliency | None) -> Mapping[str, Tensor]:
    return {} if saliency is None else saliency.sums


def _part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): one for name, one in state.items() if name.startswith(f"{part}.")}


def _other_pruner(why: str) -> VlcompressError:
    return VlcompressError(
        f"this is the state of another Pruner: {why}; make the Pruner with the same model, criterion and schedule"
    )


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
