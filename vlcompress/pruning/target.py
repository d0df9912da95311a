"""Targets: how fast, small or cheap a ticket is to be, in place of how sparse."""

from dataclasses import dataclass

from vlcompress.errors import VlcompressError

KINDS = {
    "speedup": "times as fast as dense, above 1, for example 2",
    "latency-ms": "milliseconds a batch, above 0, for example 20",
    "size-mb": "10^6 bytes of float32 weights, above 0, for example 60",
    "flops": "a share of the dense model's operations, above 0 and below 1, for example 0.4",
}
"""What may be asked for, and what its value is."""

MEASURED = ("speedup", "latency-ms")
"""The kinds that are measured on the machine; the others are counted."""

BATCH, THREADS = 32, 1
"""What a speed is for unless a target says otherwise, as `vlcompress export`."""


@dataclass(frozen=True)
class Target:
    """What the exported ticket is to reach; the default asks for nothing, and a recipe's sparsity decides.

    Attributes:
        kind: one of `KINDS`, or "".
        value: as `KINDS` says.
        batch, threads: that a speed is for.
    """

    kind: str = ""
    value: float = 0.0
    batch: int = BATCH
    threads: int = THREADS

    def __bool__(self) -> bool:
        return bool(self.kind)

    def __str__(self) -> str:
        if not self:
            return ""
        batch = f",batch:{self.batch}" if self.batch != BATCH else ""
        threads = f",threads:{self.threads}" if self.threads != THREADS else ""
        return f"{self.kind}:{self.value:.12g}{batch}{threads}"

    def limit(self, dense: float) -> float:
        """Turn it into what the ticket may cost, where the dense model costs `dense`: ms, 10^6 bytes or operations."""
        return {"speedup": dense / (self.value or 1), "flops": dense * self.value}.get(self.kind, self.value)


def parse_target(text: str) -> Target:
    """Read ``KIND:VALUE``, then ``,batch:N`` and ``,threads:N`` for a speed; "" asks for nothing.

    Raises:
        VlcompressError: anything else, or a value out of its range.
    """
    if not text:
        return Target()
    (kind, value), *more = (part.partition(":")[::2] for part in text.split(","))
    try:
        target = Target(kind, float(value), **{name: int(number) for name, number in more})
    except (TypeError, ValueError):
        target = Target()
    fits = target.value > 1 if kind == "speedup" else target.value > 0 and (kind != "flops" or target.value < 1)
    if kind not in KINDS or not fits or target.value == float("inf") or min(target.batch, target.threads) < 1:
        allowed = "; ".join(f"'{name}:N', {what}" for name, what in KINDS.items())
        raise VlcompressError(
            f"target '{text}' is none: give {allowed}; for a speed also ',batch:N' and ',threads:N' from 1 on"
        )
    return target
