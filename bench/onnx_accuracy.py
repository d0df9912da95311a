"""What exporting in lower precision costs on trained tickets of the built-in task, and what the export's gate catches.

    python -m bench.onnx_accuracy --home runs          # trains what is not trained yet: 4 x 5 trainings of LXMERT small
    python -m bench.onnx_accuracy --home runs --table  # bench/results/onnx/accuracy.json -> accuracy.md

The tickets are those of `vlcompress study granularity --criterion gradient`. Their layers do not lose the same share
each, as those of the random masks of bench.onnx_cpu do, beside whose speeds their scores stand. Each model is exported
as a user exports it, gate included, in float32, int8 and float16; bfloat16 is what the native kernel (16x1) or PyTorch
(dense) computes. Then faults are planted in int8 files, and the gate is asked again. A single seed. What is recorded
already is kept.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from bench.records import RESULTS, Json, markdown, where
from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.errors import VerificationError
from vlcompress.export.export_run import PARITY_SAMPLES, SCORED_AT_ONCE
from vlcompress.export.onnx import Style, export_onnx
from vlcompress.export.parity import BOUNDS, Bound, Precision, compare_scores
from vlcompress.export.runtime import Native, open_session
from vlcompress.export.verify import Gate, run
from vlcompress.models.base import Family
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.sparse.compile import compile_model
from vlcompress.sparse.timing import Effort
from vlcompress.tasks.base import Answer, Task, torch_predictor
from vlcompress.tickets.models import dense_model, samples, score_task
from vlcompress.tickets.run import Run, find_ticket
from vlcompress.tickets.store import TrainingResult
from vlcompress.tickets.ticket import Ticket, load_ticket

PATTERNS = ("block:16x1", "block:32x16", "neuron+head", "block:128x16")

ROUNDS = {2: 50, 3: 70, 5: 90}
"""Rounds, and the per cent that they are named by; whole heads and neurons come close to it."""

FAULTY = {("dense", 0), ("block:32x16", 50)}
"""The models in whose int8 files faults are planted."""

QUICK = Effort(rounds=1, burst_s=0.0, warmup=1)
"""Speed is measured elsewhere, at the published size."""

ORDER: tuple[Precision, ...] = ("int8", "fp32", "fp16")
"""Of the exports: float16 is slow on a CPU, and asked for least there."""

FLOAT32_ERROR = 1e-5
"""Scores that are closer than this were computed in float32."""

BATCH = 32

RECORD = RESULTS / "onnx" / "accuracy.json"
STANDS_FOR = {"block:32x16": "block:192x16", "block:128x16": "block:768x16"}
"""Patterns of the small model and those of the published one: a quarter of the 128, or 768, rows, or all of them."""

Array = np.ndarray[Any, Any]
Key = tuple[str, int, str]
"""Pattern at the published size, per cent, precision."""


@dataclass(frozen=True)
class Subject:
    """A trained model and what it takes to export it.

    Attributes:
        pattern: "dense" or a pattern.
        percent: that it is named by.
        sparsity: of the prunable weights.
        model: compiled, or dense.
        run: that it is from.
        ticket: likewise: configuration and head.
        task: that it is scored on.
    """

    pattern: str
    percent: int
    sparsity: float
    family: Family
    model: torch.nn.Module
    run: Run
    ticket: Ticket
    task: Task

    def score(self, session: Any) -> float:
        """Score a session on the task."""
        return self.task.measure(partial(_answer, session), batch=SCORED_AT_ONCE).mean

    def samples(self) -> list[dict[str, torch.Tensor]]:
        """Draw the batches that the gate compares on."""
        return samples(self.task, BATCH, -(-PARITY_SAMPLES // BATCH))


def recipe_of(pattern: str, size: str) -> Recipe:
    """Make the recipe of a pattern's chain of tickets."""
    base = default_recipe("lxmert", "vqa", size)
    pruning = {"pattern": pattern, "criterion": "gradient", "schedule": "levels:30,50,70,80,90", "sparsity": 0.9}
    return base.override(pruning={**pruning, "controls": []})


def subjects(home: Path, size: str) -> Iterator[Subject]:
    """Train what is not trained yet, and give the dense model and every ticket."""
    dense_given = False
    for pattern in PATTERNS:
        found = find_ticket(recipe_of(pattern, size), home)
        ticket = load_ticket(found.ticket)
        task = score_task(found, ticket)
        if not dense_given:
            family, model = dense_model(found, ticket)
            yield Subject("dense", 0, 0.0, family, model, found, ticket, task)
            dense_given = True
        for number, percent in ROUNDS.items():
            yield _ticket(pattern, percent, found, ticket, task, TrainingResult(found.training("ticket", number)))


def _ticket(pattern: str, percent: int, found: Run, ticket: Ticket, task: Task, trained: TrainingResult) -> Subject:
    """Compile the ticket of one round."""
    family, model = dense_model(found, ticket)
    model.load_state_dict(trained.weights())
    masks, (inputs,) = trained.masks(), samples(task, BATCH)
    compiled, _ = compile_model(family, model, dict(masks), parse_pattern(pattern).storage, inputs=inputs, effort=QUICK)
    return Subject(pattern, percent, masks.sparsity, family, compiled, found, ticket, task)


def records(subject: Subject, folder: Path, wanted: Sequence[Precision]) -> Iterator[Json]:
    """Export in each wanted precision and score each file; what computes in bfloat16 comes with the float32 file."""
    reference = subject.task.measure(torch_predictor(subject.family, subject.model), batch=SCORED_AT_ONCE).mean
    about = {"pattern": subject.pattern, "percent": subject.percent, "sparsity": subject.sparsity}
    about |= {"pytorch": reference, "examples": len(subject.task)}
    for precision in wanted:
        yield {**about, "precision": precision, **_exported(subject, Style(precision), folder / precision, reference)}
        half = _bfloat16(subject, folder / "fp32" / "model.onnx") if precision == "fp32" else None
        if half is not None:
            yield {**about, "precision": "bf16", **half}


def _exported(subject: Subject, style: Style, folder: Path, reference: float) -> Json:
    """Export one precision; where the gate refuses it, say why, and score nothing."""
    try:
        manifest = export_onnx(
            subject.family,
            subject.model,
            folder,
            subject.samples(),
            config=subject.ticket.config,
            head=subject.ticket.head,
            effort=QUICK,
            style=style,
            score=subject.score,
            reference=reference,
        )
    except VerificationError as error:
        return {"score": None, "refused": str(error)}
    scored = manifest["task_score"]
    score = scored["file"] if scored else subject.score(_session(folder, "off"))
    return {"score": score, "refused": None, "parity": manifest["parity"], "bytes": manifest["bytes"]["model"]}


def _session(folder: Path, native: Native) -> Any:
    return open_session(folder / "model.onnx", threads=1, native=native)


def _bfloat16(subject: Subject, file: Path) -> Json | None:
    """Score what computes in bfloat16: the native kernel on blocks of 16x1, PyTorch on the dense model."""
    if subject.pattern == "dense":
        answer = _half(subject)
    elif subject.pattern == "block:16x1":
        session = _session(file.parent, "bfloat16")
        answer = partial(_answer, session)
    else:
        return None
    truth, batches = torch_predictor(subject.family, subject.model), subject.samples()
    parity = compare_scores([truth(one).numpy() for one in batches], [answer(one).numpy() for one in batches])
    if subject.pattern != "dense" and parity.max_rel_error < FLOAT32_ERROR:
        return None  # no layer of the file was packed, so none ran in bfloat16
    score = subject.task.measure(answer, batch=SCORED_AT_ONCE).mean
    return {"score": score, "refused": None, "parity": {"samples": asdict(parity)}}


def _answer(session: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.from_numpy(run(session, inputs))


def _half(subject: Subject) -> Answer:
    """Run the dense model in PyTorch's bfloat16."""
    family, model = dense_model(subject.run, subject.ticket)
    model = model.bfloat16()

    def answer(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        turned = {name: x.bfloat16() if x.is_floating_point() else x for name, x in inputs.items()}
        with torch.inference_mode():
            return family.logits(model, turned).float()

    return answer


def _four_bits(weights: dict[str, Array]) -> None:
    for name in weights:
        if name.endswith(".int8"):
            weights[name] = (np.clip(np.rint(weights[name] / 16.0), -8, 7) * 16).astype(np.int8)


def _one_scale(weights: dict[str, Array]) -> None:
    """Give every output of a layer the scale of its largest one, as without a scale for each output."""
    for name in [name for name in weights if name.endswith(".scale")]:
        largest = weights[name].max()
        whole = name.replace(".scale", ".int8")
        weights[whole] = np.rint(weights[whole] * (weights[name] / largest)).astype(np.int8)
        weights[name] = np.full_like(weights[name], largest)


def _in_one_layer(weights: dict[str, Array], change: Callable[[Array], Array], ending: str) -> None:
    name = sorted(name for name in weights if name.endswith(ending))[0]
    weights[name] = change(weights[name])


FAULTS: Mapping[str, Callable[[dict[str, Array]], None]] = {
    "none": lambda weights: None,
    "weights of 4 bits": _four_bits,
    "one scale for a layer": _one_scale,
    "scales of one layer doubled": lambda weights: _in_one_layer(weights, lambda scale: scale * 2, ".scale"),
    "scales of one layer in another order": lambda weights: _in_one_layer(weights, lambda s: np.roll(s, 1), ".scale"),
    "weights of one layer shifted by an input": lambda weights: _in_one_layer(
        weights, lambda values: np.roll(values, 1, axis=0), ".int8"
    ),
    "weights of one layer all zero": lambda weights: _in_one_layer(weights, np.zeros_like, ".int8"),
}
"""Mistakes that an exporter of int8 could make. The first one makes none: the file is taken as it is."""


def faults(subject: Subject, folder: Path) -> Iterator[Json]:
    """Plant each fault in an int8 file, and say what the gate sees of it."""
    check = Gate(
        subject.family, subject.model, subject.samples(), subject.ticket.config, BOUNDS["int8"], folder / "faulty"
    )
    reference = subject.task.measure(torch_predictor(subject.family, subject.model), batch=SCORED_AT_ONCE).mean
    about = {"pattern": subject.pattern, "percent": subject.percent}
    for name, plant in FAULTS.items():
        session = open_session(_planted(folder / "int8" / "model.onnx", folder / "fault.onnx", plant), threads=1)
        yield {**about, "fault": name, **_seen(check, session, subject, reference)}


def _planted(source: Path, target: Path, plant: Callable[[dict[str, Array]], None]) -> Path:
    """Write a copy of a file with its weights changed."""
    model = onnx.load(source)
    weights = {one.name: numpy_helper.to_array(one).copy() for one in model.graph.initializer}
    plant(weights)
    for one in model.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(weights[one.name], one.name))
    onnx.save(model, target)
    return target


def _seen(check: Gate, session: Any, subject: Subject, reference: float) -> Json:
    """Ask each part of the gate; none stops the others."""
    free = replace(check, bound=Bound(float("inf"), 0.0))
    parities = free.parities(session)
    score = subject.score(session)
    refused = [f"parity, {name}" for name, found in parities.items() if not found.within(check.bound_of(name))]
    if score < check.bound.score * reference:
        refused.append("score")
    return {
        "parity": {name: asdict(found) for name, found in parities.items()},
        "score": score,
        "pytorch": reference,
        "refused_by": refused,
    }


def measure_all(home: Path, size: str, out: Path) -> None:
    """Train, export and score what is not recorded yet, and write the record after every file."""
    record: Json = json.loads(out.read_text()) if out.is_file() else {"records": [], "faults": []}
    done = {(one["pattern"], one["percent"], one["precision"]) for one in record["records"]}
    for subject in subjects(home, size):
        name = subject.pattern, subject.percent
        wanted = [precision for precision in ORDER if (*name, precision) not in done]
        with tempfile.TemporaryDirectory() as folder:
            for one in records(subject, Path(folder), wanted) if wanted else ():
                record["records"].append(one)
                if one["precision"] == "int8" and name in FAULTY and not one["refused"]:
                    record["faults"] += faults(subject, Path(folder))
                write_file(out, dumps({**record, "task": f"lxmert vqa {size}", "environment": environment()}))
                print(*name, one["precision"], one["score"] or one["refused"], flush=True)


def accuracy_table(record: Json) -> str:
    """Lay out scores by precision, and what the gate saw of planted faults."""
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
        + markdown(scored, [_scored(one, dense) for one in sorted(record["records"], key=_order)])
        + "\nWhat the gate sees of faults planted in int8 files:\n\n"
        + markdown(planted, [_fault(one) for one in record["faults"]])
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


def read_scores(file: Path = RECORD) -> dict[Key, float]:
    """Read the scores on the built-in task; none if they were not recorded."""
    records = json.loads(file.read_text())["records"] if file.is_file() else []
    return {
        (STANDS_FOR.get(one["pattern"], one["pattern"]), one["percent"], one["precision"]): one["score"]
        for one in records
        if one["score"] is not None
    }


def score_cell(scores: Mapping[Key, float], pattern: str, percent: int, precision: str) -> str:
    """Write the score in points beside that of the dense float32 model; "not measured" where there is none."""
    got = scores.get((pattern, 0 if pattern == "dense" else percent, precision))
    dense = scores.get(("dense", 0, "fp32"))
    return "not measured" if got is None or dense is None else f"{100 * got:.1f} of {100 * dense:.1f}"


def main() -> None:
    """Measure, or lay out what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--size", default="small")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="only lay out what is recorded")
    options = parser.parse_args()
    if not options.table:
        measure_all(options.home, options.size, options.out)
    text = accuracy_table(json.loads(options.out.read_text()))
    write_file(options.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
