"""How close `vlcompress prune --speedup` comes to what is asked: families, speeds and batch sizes, one after another.

What a ticket scores plays no part, so each training takes two steps on the least of the built-in data.
`python -m bench.speed_targets --out FILE`, on a quiet machine; FILE is written after every cell.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.bench.pricing import pricing_of
from vlcompress.bench.reached import reach
from vlcompress.errors import VlcompressError
from vlcompress.recipe import default_recipe
from vlcompress.results import to_json
from vlcompress.tickets.run import find_ticket

CELLS = {"lxmert": "vqa", "uniter": "vqa", "vilt": "vqa", "encoder": "classification"}


def measure(family: str, speed: float, batch: int, home: Path) -> dict[str, Any]:
    """Find a ticket for a speed, export it, and measure it beside dense."""
    recipe = default_recipe(family, CELLS[family], "small").override(
        data={"source": "scenes:tiny"},
        pruning={
            "pattern": "neuron+head",
            "criterion": "gradient",
            "schedule": "oneshot",
            "controls": [],
            "seeds": [0],
            "target": f"speedup:{speed},batch:{batch}",
        },
        training={"steps": 2, "epochs": 0.0},
    )
    start = time.perf_counter()
    reached = reach(find_ticket(recipe, home, say=lambda line: None, pricing=pricing_of), say=lambda line: None)
    figures = to_json(dataclasses.replace(reached, environment={}))
    return {"family": family, **figures, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Measure every cell that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(CELLS))
    parser.add_argument("--speeds", nargs="+", type=float, default=[2.0, 1.5, 3.0])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 1])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        for speed, batch, family in itertools.product(asked.speeds, asked.batches, asked.families):
            try:
                cell = measure(family, speed, batch, Path(home))
            except VlcompressError as error:
                cell = {"family": family, "target": f"speedup:{speed},batch:{batch}", "error": str(error)}
            found.append(cell)
            print(family, batch, speed, cell.get("speedup", cell.get("error")), flush=True)
            write_file(asked.out, dumps({"environment": environment(), "cells": found}))


if __name__ == "__main__":
    main()
