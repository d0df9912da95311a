"""Train the dense model of every cell of the table and record its score: what `vlcompress tasks` prints.

    python -m bench.cells [--home runs] [--cell uniter-vqa ...] [--size small]

A cell that is recorded with the same recipe is not run again; an interrupted training continues. The record is package
data (vlcompress/tasks/cells.json).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.data.sources import data_folder
from vlcompress.models.registry import families_of
from vlcompress.recipe import PruningRecipe, Recipe, default_recipe
from vlcompress.tasks.build_task import data_of
from vlcompress.tasks.pretraining_task import PretrainingTask
from vlcompress.tasks.registry import tabled
from vlcompress.tasks.support_matrix import CHANCE, RECORD, read_baselines, read_record
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial

SIZE_OF = {(family, "retrieval"): "tiny" for family in ("uniter", "vilt")}
"""Where the small data would take too long: every caption is scored with every image, together."""

TINY_STEPS = 200
"""The recipes for trying things out stop after 8, which shows nothing."""


def recipe_of(family: str, task: str, size: str) -> Recipe:
    """Make the recipe of a cell's dense model, which does not depend on how the built-in recipe prunes."""
    recipe = replace(default_recipe(family, task, size), pruning=PruningRecipe())
    source = f"scenes:{SIZE_OF.get((family, task), size)}"
    return recipe.override(
        data={"source": source}, training={"steps": TINY_STEPS, "epochs": 0.0} if size == "tiny" else {}
    )


def run(family: str, task: str, size: str, home: Path) -> dict[str, Any]:
    """Train and score one cell, and give its record."""
    started = time.monotonic()
    recipe = recipe_of(family, task, size)
    bench = open_experiment(recipe, home)
    trained = bench.train(Trial(recipe.pruning.seeds[0]), f"{family} {task} {size} dense")
    folder = data_folder(recipe.data.source, home, task=data_of(task))
    blind = {"constant": _constant(bench)} if CHANCE.get(task) == "constant" else None
    return {
        "size": size,
        "source": recipe.data.source,
        "score": trained.scores.mean,
        "figures": dict(trained.scores.figures),
        "metric": bench.score_task.metric,
        "examples": len(bench.score_task),
        "steps": bench.hyper.steps,
        "checkpoint": recipe.model.checkpoint,
        "recipe_sha256": recipe.sha256(),
        "without_looking": blind or read_baselines(folder),
        "seconds": round(time.monotonic() - started, 1),
    }


def _constant(bench: Experiment) -> float:
    """Score one answer to all that is asked."""
    task = bench.score_task
    return float(task.constant(bench.config).mean() if isinstance(task, PretrainingTask) else task.constant())


def main() -> None:
    """Run what is not recorded yet, cell by cell, writing the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--cell", action="append", help="FAMILY-TASK; all by default")
    parser.add_argument("--size", default="small")
    chosen = parser.parse_args()
    record = read_record()
    for task in tabled():
        for family in families_of(task):
            name = f"{family}-{task}"
            done = record["cells"].get(name, {})
            wanted = not chosen.cell or name in chosen.cell
            if wanted and done.get("recipe_sha256") != recipe_of(family, task, chosen.size).sha256():
                record["cells"][name] = run(family, task, chosen.size, chosen.home)
                only = f" --cell {name}" if chosen.cell else ""
                made = {"command": f"python -m bench.cells{only} --size {chosen.size}", "environment": environment()}
                (record["cells"][name] if chosen.cell else record).update(made)  # no other cell was made by it
                write_file(RECORD, dumps(record))


if __name__ == "__main__":
    main()
