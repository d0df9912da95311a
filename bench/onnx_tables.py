"""Markdown of what bench.onnx_cpu, bench.onnx_rivals and bench.onnx_accuracy recorded. A speed never stands alone: the
score that the same pattern, sparsity and precision keep on the built-in task is in its row.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "onnx"

Json = dict[str, Any]
Key = tuple[str, int, str]
"""Pattern at the published size, per cent, precision."""

GOALS = {
    "192x16": {50: 1.85, 70: 3.0, 90: 6.0},
    "768x16": {50: 1.85, 70: 3.0, 90: 6.0},
    "heads and neurons": {50: 2.1, 70: 3.3, 90: 9.5},
    "192x16, native kernel": {50: 1.85, 70: 3.0, 90: 6.0},
    "16x1, native kernel": {50: 2.0, 70: 3.2, 90: 7.5},
    "16x1, native kernel, bfloat16": {70: 4.5},
    "192x16, native kernel, bfloat16": {70: 4.5},
    "heads and neurons, int8": {70: 9.0},
}
"""Times faster than dense float32 that were aimed at, by form and per cent."""

STANDS_FOR = {"block:32x16": "block:192x16", "block:128x16": "block:768x16"}
"""Patterns of the small model and those of the published one: a quarter of the 128, or 768, rows, or all of them."""

ACCURACY = (
    "The score is that of trained tickets of the built-in task, of **another size** (LXMERT small, hidden size 128, "
    "blocks of 32x16 for 192x16 and of 128x16 for 768x16), at the same kind of pattern, sparsity and precision: see "
    "accuracy.md."
)


def read_scores(file: Path = RESULTS / "accuracy.json") -> dict[Key, float]:
    """Read the scores on the built-in task; none if they were not recorded."""
    records = json.loads(file.read_text())["records"] if file.is_file() else []
    return {
        (STANDS_FOR.get(one["pattern"], one["pattern"]), one["percent"], one["precision"]): one["score"]
        for one in records
        if one["score"] is not None
    }


def score_cell(scores: Mapping[Key, float], pattern: str, percent: int, precision: str) -> str:
    """Return the score in points beside that of the dense float32 model; "not measured" where there is none."""
    got = scores.get((pattern, 0 if pattern == "dense" else percent, precision))
    dense = scores.get(("dense", 0, "fp32"))
    return "not measured" if got is None or dense is None else f"{100 * got:.1f} of {100 * dense:.1f}"


def ratio_cell(ratio: Json) -> str:
    """Return a ratio with its interval."""
    return f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def where(environments: Sequence[Json]) -> str:
    """Say where and when measurements were made: what is the same in all of them once, loads and times as ranges."""
    one = environments[0]
    loads = [found["load_average"] for found in environments]
    packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items() if name != "numpy")
    commits = ", ".join(sorted({str(found["commit"]) for found in environments}))
    return (
        f"{one['cpu']}, {one['cores']} cores, {one['memory_gb']} GB, {one['os']}, Python {one['python']}; {packages}; "
        f"commit {commits}; {environments[0]['time']} to {environments[-1]['time']}, load average at the start of each "
        f"measurement {min(loads)} to {max(loads)}."
    )


def cpu_table(parts: Sequence[Json], scores: Mapping[Key, float]) -> str:
    """Lay out what bench.onnx_cpu measured."""
    if not parts:
        return "Nothing was measured yet.\n"
    rounds = ", ".join(sorted({f"{one['rounds']} at batch {one['batch']}" for one in parts}))
    head = ("form", "%", "batch", "threads", "over dense", "goal", "reached", "over stock dense", "ms", "error")
    return (
        f"LXMERT-base, 20 words, 36 regions, stock ONNX Runtime, random weights and masks. {where_parts(parts)}\n\n"
        "Times faster than dense float32 in the same process, in turn, with the same threads: median and 95 % interval "
        f"over rounds ({rounds}). *over dense* has ONNX Runtime's SkipLayerNormFusion switched off on both sides, and "
        "is what the goal is held against; *over stock dense* is against dense as the runtime opens it by itself. ms "
        "is the median of a call, error the largest difference of a score from the checked float32 scores of the same "
        f"masks, as a share of the largest.\n\n{ACCURACY}\n\n"
        + lines_of((*head, "load s", "MB", "task score (another size)"), _cpu_rows(parts, scores))
    )


def where_parts(parts: Sequence[Json]) -> str:
    """Say where parts were measured, in the order of time."""
    return where(sorted((one["environment"] for one in parts), key=lambda found: str(found["time"])))


def _cpu_rows(parts: Sequence[Json], scores: Mapping[Key, float]) -> Iterator[Sequence[str]]:
    for part in parts:
        percent = part["sparsity"]
        for name, row in part["variants"].items():
            if name == "dense":
                continue
            ratio, goal = row["speedup"]["dense"], GOALS.get(name, {}).get(percent)
            dense = row["pattern"] == "dense"
            yield (
                name,
                "-" if dense else str(percent),
                str(part["batch"]),
                str(part["threads"]),
                ratio_cell(ratio),
                "-" if goal is None else f"{goal:g}",
                "-" if goal is None else "yes" if ratio["value"] >= goal else "no",
                ratio_cell(row["speedup"]["stock dense"]),
                f"{row['latency']['p50_ms']:.1f}",
                f"{row['rel_error']:.0e}",
                f"{row['load_s']:.1f}",
                f"{row['bytes'] / 1e6:.0f}",
                score_cell(scores, row["pattern"], percent, row["precision"]),
            )


def rivals_table(parts: Sequence[Json], scores: Mapping[Key, float]) -> str:
    """Lay out what bench.onnx_rivals measured."""
    if not parts:
        return "Nothing was measured yet.\n"
    head = ("runtime", "version", "%", "batch", "threads", "over dense ONNX Runtime", "ms", "error", "load s")
    return (
        f"LXMERT-base, 20 words, 36 regions, random weights and masks, the same masks for all. {where_parts(parts)}\n\n"
        "Each runtime is a process of its own, one of them works at a time, in shuffled turns. Times faster than dense "
        "float32 in stock ONNX Runtime, of whose two processes the faster counts: median and 95 % interval over "
        f'{parts[0]["rounds"]} rounds. "ours" is stock ONNX Runtime with our files, 16x1 with the native kernel. error '
        "is the largest difference of a score from the checked float32 scores of the same weights, as a share of the "
        "largest; load s includes compiling for both "
        f"batch sizes.\n\n{ACCURACY}\n\n" + lines_of((*head, "task score (another size)"), _rival_rows(parts, scores))
    )


def _rival_rows(parts: Sequence[Json], scores: Mapping[Key, float]) -> Iterator[Sequence[str]]:
    for part in parts:
        percent = part["sparsity"]
        for name, row in part["runtimes"].items():
            yield (
                name,
                row["version"],
                "-" if row["pattern"] == "dense" else str(percent),
                str(part["batch"]),
                str(part["threads"]),
                ratio_cell(row["speedup"]),
                f"{row['latency']['p50_ms']:.1f}",
                f"{row['rel_error']:.0e}",
                str(row["load_s"]),
                score_cell(scores, row["pattern"], percent, row["precision"]),
            )


def parallel_table(record: Json, scores: Mapping[Key, float]) -> str:
    """Lay out what bench.onnx_parallel measured."""
    head = ("form", "%", "batch", "one session, all threads: rows/s", "a session a core: rows/s", "ratio")
    rows = [
        (
            one["form"],
            "-" if one["pattern"] == "dense" else str(one["sparsity"]),
            str(one["batch"]),
            *(f"{one['rows_per_s'][name]:.1f}" for name in ("one session", "a session a core")),
            ratio_cell(one["sessions_over_threads"]),
            score_cell(scores, one["pattern"], one["sparsity"], one["precision"]),
        )
        for one in record["records"]
    ]
    return (
        f"LXMERT-base, 20 words, 36 regions, stock ONNX Runtime, random weights and masks. "
        f"{where([record['environment']])}\n\n"
        f"One session of {record['cores']} threads against {record['cores']} sessions of one, in turn; ratio with 95 % "
        f"interval over {record['records'][0]['rounds']} rounds. `vlcompress serve` makes this choice by measurement "
        f"when it starts.\n\n{ACCURACY}\n\n" + lines_of((*head, "task score (another size)"), rows)
    )


def accuracy_table(record: Json) -> str:
    """Lay out what bench.onnx_accuracy measured."""
    examples = record["records"][0]["examples"]
    dense = next(one["score"] for one in record["records"] if one["pattern"] == "dense" and one["precision"] == "fp32")
    scored = (
        "pattern",
        "%",
        "precision",
        "score",
        "of dense",
        "PyTorch",
        "error",
        "agreement",
        "refused",
    )
    planted = ("pattern", "%", "fault", "score", "PyTorch", "error", "agreement", "refused by")
    return (
        f"{record['task']}, built-in data, {examples} examples, one seed. "
        f"{where([record['environment']])}\n\n"
        "PyTorch is the score of the same ticket in float32. error and agreement are those of the export's gate, the "
        "worse of real samples and random shapes: the largest difference of a score as a share of the largest, and the "
        "share of examples with the same best answer.\n\n"
        + lines_of(scored, [_scored(one, dense) for one in sorted(record["records"], key=_order)])
        + "\nWhat the gate sees of faults planted in int8 files:\n\n"
        + lines_of(planted, [_fault(one) for one in record["faults"]])
    )


def _order(one: Json) -> tuple[str, int, str]:
    return one["pattern"].replace("dense", ""), one["percent"], one["precision"]


def _scored(one: Json, dense: float) -> Sequence[str]:
    error, agreement = _worst(one.get("parity") or {})
    score = one["score"]
    return (
        one["pattern"],
        str(one["percent"] or "-"),
        one["precision"],
        "-" if score is None else f"{100 * score:.2f}",
        "-" if score is None else f"{100 * score / dense:.1f} %",
        f"{100 * one['pytorch']:.2f}",
        error,
        agreement,
        one["refused"] or "no",
    )


def _fault(one: Json) -> Sequence[str]:
    error, agreement = _worst(one["parity"])
    scores = f"{100 * one['score']:.2f}", f"{100 * one['pytorch']:.2f}"
    refused = ", ".join(one["refused_by"]) or "nothing"
    return (one["pattern"], str(one["percent"] or "-"), one["fault"], *scores, error, agreement, refused)


def _worst(parities: Mapping[str, Json]) -> tuple[str, str]:
    if not parities:
        return "-", "-"
    error = max(found["max_rel_error"] for found in parities.values())
    return f"{error:.1e}", f"{min(found['answer_agreement'] for found in parities.values()):.3f}"
