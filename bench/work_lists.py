"""How evenly a launch shares a block-sparse product among the slots of a chip: simulated, nothing is measured.

    python -m bench.work_lists

For each shape, M, density and kind of mask: the steps of the busiest slot over those of an even share ("balance"), and
the same with what cutting costs, in steps of a slot ("with costs": filling pipelines, moving fp32 pieces, the
launch that adds them). *before* is the first rule of this project: outputs in the order of W, cut in parts of about
equal length that end between outputs, row tile by row tile.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vlcompress.kernels import partition
from vlcompress.kernels.configs import SHARED_BYTES, rule_of_thumb
from vlcompress.kernels.formats import BlockPattern
from vlcompress.kernels.partition import Partition
from vlcompress.kernels.synthetic import pattern_of, random_mask

MULTIPROCESSORS, MEMORY = 132, SHARED_BYTES["sm_90"]
BLOCK, ITEMSIZE, SKEW, SEEDS = (64, 64), 2, 1.0, 5
SHAPES = ((768, 3072), (3072, 768), (768, 768))
ROWS = (640, 1152, 4096, 16384)


@dataclass(frozen=True)
class Shared:
    """One product shared in one way: steps of the busiest slot and of an even share, and the costs in steps."""

    steps: float
    even: float
    overhead: float

    @property
    def balance(self) -> float:
        """The busiest slot over an even share."""
        return self.steps / self.even

    @property
    def cost(self) -> float:
        """The same with what cutting costs."""
        return (self.steps + self.overhead) / self.even


def before(pattern: BlockPattern, m: int) -> Shared:
    """The first rule: the fewest parts within 5 % of the fewest waves, of whole outputs in the order of W."""
    config = rule_of_thumb("sm_90", BLOCK, m)
    row_tiles, outputs, slots = -(-m // config.block_m), pattern.grid[0], 2 * MULTIPROCESSORS
    counts = sorted({step << power for power in range(outputs.bit_length()) for step in (1, 3)} | {outputs})
    times = {parts: -(-row_tiles * parts // slots) / parts for parts in counts if parts <= outputs}
    parts = next(parts for parts, time in times.items() if time <= 1.05 * min(times.values()))
    steps = _cut_in_order(pattern.crow.diff().clamp(min=1).tolist(), parts)
    waves = -(-row_tiles * parts // slots)
    return Shared(
        partition.makespan(steps, row_tiles, 1, slots),
        sum(steps) * row_tiles / slots,
        waves * partition.START_STEPS / 2,
    )


def after(pattern: BlockPattern, m: int) -> tuple[Shared, Partition]:
    """What a launch does."""
    work = partition.work_of(m, pattern, pattern.forward, ITEMSIZE)
    config, cut = partition.cheapest(work, rule_of_thumb("sm_90", BLOCK, m), MULTIPROCESSORS, MEMORY)
    slots = partition.slots_of(work, config, MULTIPROCESSORS, MEMORY, cut.splits_outputs)
    row_tiles, tile = work.row_tiles(config.block_m), partition.tile_of(work, config)
    waves = -(-row_tiles * cut.parts // slots.count)
    overhead = waves * partition.start_steps(slots) / slots.resident
    if cut.splits_outputs:
        overhead += waves * tile.cut_bytes / tile.step_bytes
        overhead += partition.LAUNCH_BYTES / tile.step_bytes / slots.resident
    steps = partition.makespan(
        partition.part_steps(pattern.forward, work.outputs, cut), row_tiles, cut.group, slots.count
    )
    return Shared(steps, work.entries * row_tiles / slots.count, overhead), replace(cut, cost=0.0)


def _cut_in_order(outputs: Sequence[int], parts: int) -> list[int]:
    ends = [0]
    for steps in outputs:
        ends.append(ends[-1] + steps)
    if parts == len(outputs):
        return list(outputs)
    return partition.lengths([_nearest(ends, ends[-1] * part / parts) for part in range(parts + 1)])


def _nearest(ends: Sequence[int], share: float) -> int:
    return min(ends, key=lambda end: abs(end - share))


def row(shape: tuple[int, int], m: int, skew: float, density: float) -> str:
    """One line of the table, the mean over the seeds."""
    patterns = [pattern_of(random_mask(shape, BLOCK, 1 - density, seed, skew), BLOCK) for seed in range(SEEDS)]
    old = [before(pattern, m) for pattern in patterns]
    new = [after(pattern, m) for pattern in patterns]
    cuts = sorted({f"{cut.parts}{' split' if cut.splits_outputs else ''}" for _, cut in new})
    cells = [f"{shape[0]}, {shape[1]}", m, "log-normal" if skew else "uniform", f"{1 - density:.0%}"]
    cells += [f"{_mean(s.balance for s in old)} → {_mean(s.balance for s, _ in new)}"]
    cells += [f"{_mean(s.cost for s in old)} → {_mean(s.cost for s, _ in new)}", ", ".join(cuts)]
    return "| " + " | ".join(map(str, cells)) + " |"


def _mean(values: Iterable[float]) -> str:
    return f"{statistics.mean(values):.2f}"


def main() -> None:
    """Print the table in Markdown."""
    print("| N, K | M | block rows | sparsity | balance, before → after | with costs | parts |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        for m in ROWS:
            for skew in (0.0, SKEW):
                for density in (0.5, 0.3, 0.1):
                    print(row(shape, m, skew, density))


if __name__ == "__main__":
    main()
