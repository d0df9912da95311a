"""Which recipe scores best at twice the speed of dense: LXMERT `small` on VQA, heads, neurons and layers, three seeds.

`python -m bench.twice_as_fast --home HOME --out FILE`: arms whose runs are in HOME are not trained again; every arm is
exported and measured anew, so on a quiet machine. FILE is written after every arm.
"""

import argparse
from pathlib import Path
from typing import Any

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.bench.pricing import pricing_of
from vlcompress.bench.reached import DOCUMENT, reach
from vlcompress.recipe import METHODS, default_recipe
from vlcompress.results import to_json
from vlcompress.tickets.run import find_ticket

ONCE = METHODS["oneshot"]
GRADIENT = {**ONCE, "criterion": "gradient"}
ARMS: dict[str, dict[str, Any]] = {
    "three rounds": {"criterion": "gradient", "schedule": "levels:30,50,70"},
    "one round": GRADIENT,
    "one round, by fisher": {**ONCE, "criterion": "fisher"},
    "three rounds, by fisher": {"criterion": "fisher", "schedule": "levels:30,50,70"},
    "one round, by magnitude": {**ONCE, "criterion": "magnitude"},
    "one round, layers too": {**GRADIENT, "pattern": "neuron+head+layer"},
    "one round, layers alone": {**GRADIENT, "pattern": "layer"},
}


def measure(changes: dict[str, Any], home: Path) -> dict[str, Any]:
    """Find the tickets of an arm, export the first seed's, and measure it beside dense."""
    common = {"controls": [], "seeds": [0, 1, 2], "target": "speedup:2"}
    recipe = default_recipe("lxmert", "vqa", "small").override(pruning={**common, **changes})
    run = find_ticket(recipe, home, say=print, pricing=pricing_of)
    (run.folder / DOCUMENT).unlink(missing_ok=True)
    reached, ticket = reach(run, say=print), run.result().ticket
    return {
        "pruning": recipe.document()["pruning"],
        "sparsity": ticket.sparsity,
        "scores": ticket.scores,
        "verdict": to_json(ticket.verdict),
        **{name: to_json(getattr(reached, name)) for name in ("speedup", "dense", "ticket", "bytes")},
    }


def main() -> None:
    """Measure every arm that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for arm in asked.arms:
        found[arm] = measure(ARMS[arm], asked.home)
        print(arm, found[arm]["scores"], found[arm]["speedup"], flush=True)
        write_file(asked.out, dumps({"environment": environment(), "arms": found}))


if __name__ == "__main__":
    main()
