"""The study behind the README's accuracy figures: tickets and controls on the built-in data, three seeds.

    python -m bench.tickets [--home runs] [--out bench/results/tickets]

Two runs of the published recipe: blocks as it says, with every control; and unstructured with its own random
control. Runs share what hashes equal, and an interrupted study continues. It writes the two run documents and a summary
that checks what the built-in data must show.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from vlcompress.artefacts import dumps
from vlcompress.bench.environment import environment
from vlcompress.data.sources import data_folder
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.tickets.run import find_ticket


def recipes(seeds: tuple[int, ...]) -> dict[str, Recipe]:
    """Give the runs of the study by name."""
    published = default_recipe("lxmert", "vqa", "small").override(pruning={"seeds": seeds, "sparsity": 0.7})
    return {
        "block": published.override(pruning={"controls": ["random", "shuffle", "reinit", "unstructured"]}),
        "unstructured": published.override(pruning={"pattern": "unstructured", "controls": ["random"]}),
    }


def mean(cell: dict[str, Any]) -> float:
    """Give a cell's mean score over seeds, in points."""
    return 100 * sum(cell["scores"]) / len(cell["scores"])


def pick(document: dict[str, Any], arm: str, sparsity: float) -> dict[str, Any]:
    """Give the cell of an arm nearest to a sparsity."""
    cells = [cell for cell in document["cells"] if cell["arm"] == arm]
    return min(cells, key=lambda cell: abs(cell["sparsity"] - sparsity))


def summary(documents: dict[str, dict[str, Any]], question_only: float) -> dict[str, Any]:
    """Check what the built-in data must show."""
    dense = mean(pick(documents["unstructured"], "dense", 0))
    half = pick(documents["unstructured"], "ticket", 0.5)
    ticket, random = (mean(pick(documents["unstructured"], arm, 0.7)) for arm in ("ticket", "random"))
    blocks = mean(pick(documents["block"], "ticket", 0.7))
    return {
        "dense": dense,
        "question_only": question_only,
        "dense_over_question_only": dense - question_only,
        "unstructured_50_relaxed": half["verdict"]["levels"]["relaxed"],
        "unstructured_70": ticket,
        "random_70": random,
        "ticket_over_random_70": ticket - random,
        "block_70": blocks,
        "cost_of_blocks_70": ticket - blocks,
        "holds": {
            "dense at least 15 points above question only": dense - question_only >= 15,
            "unstructured 50 % passes relaxed": half["verdict"]["levels"]["relaxed"]["outcome"] == "pass",
            "random at 70 % at least 5 points below the ticket": ticket - random >= 5,
        },
    }


def main() -> None:
    """Run the study and write its records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/tickets"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    started = time.monotonic()
    documents = {}
    for name, recipe in recipes(tuple(arguments.seeds)).items():
        run = find_ticket(recipe, arguments.home, device=torch.device("cpu"))
        documents[name] = run.document()
    folder = data_folder(recipe.data.source, arguments.home)
    question_only = json.loads((folder / "data_report.json").read_text())["scores"]["question_only"]["overall"]
    record = {
        "command": "python -m bench.tickets",
        "environment": environment(),
        "seconds": round(time.monotonic() - started, 1),
        **summary(documents, question_only),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "summary.json").write_text(dumps(record))
    for name, document in documents.items():
        (arguments.out / f"{name}.json").write_text(dumps(document))
    print(dumps(record))


if __name__ == "__main__":
    main()
