"""The plan: for every pruned layer what it is, how it runs, and the timings that decided it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vlcompress.artefacts import Json
from vlcompress.devices import Compute
from vlcompress.kernels.formats import Block
from vlcompress.results import from_json
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.shrink import Kept


@dataclass(frozen=True)
class LayerPlan:
    """One pruned layer after shrinking.

    Attributes:
        name: canonical weight name.
        shape: [N, K] = [out, in].
        format: "bsr" where the file holds packed blocks, "2:4" where it holds two of every four inputs, "dense" where
            both would be larger.
        block: rows and columns of the packed blocks; None for the others.
        sparsity: fraction of the shrunk weight that is pruned, in [0, 1].
        rows: rows M of activations that the timings used; 0 if the model never ran the layer.
        nbytes: bytes of the stored weight, indices included.
        choice: how it runs, in the runtime that the plan is for.
    """

    name: str
    shape: tuple[int, int]
    format: Literal["bsr", "2:4", "dense"]
    block: Block | None
    sparsity: float
    rows: int
    nbytes: int
    choice: LayerChoice


@dataclass(frozen=True)
class CompilePlan:
    """How a ticket was compiled.

    Attributes:
        layers: every pruned layer.
        kept: what stayed of every coupling.
        inputs: shapes of the inputs that it was measured with.
        threads: threads during the measurement.
        computed_on: where it was measured and in what: "device", "dtype", and the device's "name".
        max_abs_error: largest difference of the compiled model's scores from the masked float32 model's on those
            inputs.
    """

    layers: tuple[LayerPlan, ...]
    kept: tuple[Kept, ...]
    inputs: Mapping[str, tuple[int, ...]]
    threads: int
    computed_on: Mapping[str, str]
    max_abs_error: float

    def other_than(self, compute: Compute) -> str | None:
        """Say how a device and dtype differ from those that the plan was made for; None if they are the same."""
        here = compute.describe()
        same = all(here[key] == self.computed_on[key] for key in ("dtype", "name"))
        made_for, opened_on = (f"{one['name']} in {one['dtype']}" for one in (self.computed_on, here))
        return None if same else f"the plan was made on {made_for} and is opened on {opened_on}"


def read_plan(document: Json) -> CompilePlan:
    """Read a plan from ``plan.json``'s "plan"; earlier ones name a device alone, made in float32 on who knows what."""
    older = {"device": document.get("device", "cpu"), "dtype": "fp32", "name": "an unnamed machine"}
    plan: CompilePlan = from_json(CompilePlan, {"computed_on": older, **document})
    return plan
