"""The numbers of a report, from the files of a run: what the page shows and ``report.json`` holds.

Only ``run.json`` must be there. What `compile`, `export` and `bench` add is read where it is found and None where not,
so that a report can be made at any time and says what is missing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vlcompress.artefacts import Json, read_json
from vlcompress.errors import VlcompressError
from vlcompress.recipe import parse_recipe
from vlcompress.tickets.run import DOCUMENT, Run

LEVELS = ("strict", "matching", "relaxed")
VARIANTS = ("dense", "masked", "compiled", "onnx dense", "onnx compiled")


def report_facts(run: Run) -> Json:
    """Gather everything that a report says.

    Args:
        run: a finished run.

    Returns:
        A JSON object: "run", "ticket" (one of "arms"), "arms", "block_cost", "layer_sparsity", "speed", "curve",
        "plan", "onnx", "recipe", "environment", "versions", "computed_on" (where trained, if not in float32 on the
        CPU), "data", "metric". Scores are in percent, sparsities are fractions in [0, 1], latencies milliseconds a
        call, sizes bytes. None is what has not been measured.

    Raises:
        VlcompressError: not a finished run, or one of its files is damaged.
    """
    if not (run.folder / DOCUMENT).is_file():
        raise VlcompressError(
            f"'{run.folder}' is not a finished run (it has no {DOCUMENT}): run `vlcompress prune` to its end, "
            "or give the folder of another run"
        )
    document = run.document()
    bench = _optional(run.folder / "bench.json")
    arms = [_arm(cell) for cell in document["cells"]]
    return {
        "run": run.folder.name,
        "recipe": document["recipe"],
        "metric": document["metric"],
        "data": document["data"],
        "prunable_weights": document.get("prunable_weights"),
        "arms": arms,
        "ticket": [arm for arm in arms if arm["arm"] == "ticket"][-1],
        "block_cost": block_cost(document["cells"]),
        "layer_sparsity": document.get("layer_sparsity"),
        "plan": (_optional(run.folder / "compiled" / "plan.json") or {}).get("plan"),
        "onnx": _onnx(_optional(run.folder / "onnx" / "manifest.json")),
        "speed": bench and _speed(bench),
        "curve": _curve((bench or {}).get("curve")),
        "environment": (bench or {}).get("environment"),
        "versions": document.get("versions"),
        **({"computed_on": document["computed_on"]} if "computed_on" in document else {}),
    }


def toml_text(facts: Mapping[str, Any]) -> str:
    """Return the recipe of a report as TOML, every field spelt out."""
    import tomli_w

    return tomli_w.dumps(parse_recipe(facts["recipe"]).document())


def block_cost(cells: Sequence[Json]) -> list[Json] | None:
    """Compare the ticket with the control "unstructured", round by round.

    Args:
        cells: those of run.json; both arms prune to the same levels.

    Returns:
        For each round the two scores in percent, their difference ("cost", positive where blocks cost something) and
        its standard deviation over seeds (None for a single seed); None if one of the arms is not there.
    """
    ticket = {cell["round"]: cell for cell in cells if cell["arm"] == "ticket"}
    plain = {cell["round"]: cell for cell in cells if cell["arm"] == "unstructured"}
    return [_cost(ticket[number], plain[number]) for number in sorted(ticket.keys() & plain.keys())] or None


def _cost(ticket: Json, plain: Json) -> Json:
    costs = [100 * (b - a) for a, b in zip(ticket["scores"], plain["scores"], strict=True)]
    return {
        "round": ticket["round"],
        "sparsity": ticket["sparsity"],
        "unstructured_sparsity": plain["sparsity"],
        "ticket": 100 * mean(ticket["scores"]),
        "unstructured": 100 * mean(plain["scores"]),
        "seeds": len(costs),
        "cost": mean(costs),
        "cost_sd": _sd(costs),
    }


def _arm(cell: Json) -> Json:
    """Give one arm at one level; its interval is the spread over seeds, or the bootstrap's where there is one seed."""
    scores = [100 * score for score in cell["scores"]]
    verdict = cell["verdict"]
    low, high = _interval(scores, verdict)
    return {
        "arm": cell["arm"],
        "round": cell["round"],
        "sparsity": cell["sparsity"],
        "score": mean(scores),
        "seeds": len(scores),
        "sd": _sd(scores),
        "low": low,
        "high": high,
        "of_dense": mean(scores) / (100 * verdict["dense"]) if verdict else 1.0,
        "levels": {name: verdict["levels"][name] for name in LEVELS} if verdict else None,
    }


def _interval(scores: Sequence[float], verdict: Json | None) -> tuple[float | None, float | None]:
    spread = _sd(scores)
    if spread is not None:
        return mean(scores) - spread, mean(scores) + spread
    if verdict is None:
        return None, None  # the bootstrap pairs every arm with dense: dense itself is the line they are compared with
    strict = verdict["levels"]["strict"]
    return 100 * (verdict["dense"] + strict["low"]), 100 * (verdict["dense"] + strict["high"])


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _speed(bench: Json) -> Json:
    accuracy, said = bench.get("accuracy") or {}, bench.get("computed_on") or {}
    references = bench.get("references") or ["dense"]
    variants = {
        name: {**row, "accuracy": accuracy.get(name), "batches": _batches(row.get("batches") or {}, references)}
        for name, row in sorted((bench.get("variants") or {}).items(), key=lambda item: _rank(item[0]))
    }
    return {
        "device": said.get("device", bench.get("device", "cpu")),
        "dtype": said.get("dtype", "fp32"),
        "threads": bench.get("threads"),
        "references": references,
        "variants": variants,
    }


def _batches(batches: Json, references: Sequence[str]) -> Json:
    """Put every batch size's speeds under the names of their references; one that was not measured is left out."""
    return {
        size: {**row, "speedup": {to: found for to in references if (found := (row.get("speedup") or {}).get(to))}}
        for size, row in sorted(batches.items(), key=lambda item: int(item[0]))
    }


def _curve(entries: Sequence[Json] | None) -> list[Json] | None:
    """Return latency against sparsity, each entry's "speedup" (against dense) with the same names as the variants'."""
    return [{**entry, "speedup": _ratio(entry.get("speedup"))} for entry in entries] if entries else None


def _ratio(speedup: Json | None) -> Json | None:
    if not speedup:
        return None
    return {"value": speedup.get("value", speedup.get("ratio")), "low": speedup["low"], "high": speedup["high"]}


def _rank(variant: str) -> tuple[int, str]:
    """Order variants as the work goes; JSON has put them in the order of the alphabet."""
    return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant


def _onnx(manifest: Json | None) -> Json | None:
    if manifest is None:
        return None
    return {name: manifest.get(name) for name in ("opset", "inputs", "padding", "parity", "speed", "bytes")}


def _optional(path: Path) -> Json | None:
    return read_json(path) if path.is_file() else None
