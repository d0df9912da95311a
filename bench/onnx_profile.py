"""Where dense and pruned LXMERT-base spend their time in ONNX Runtime, and how fast a form could be at best.

    python -m bench.onnx_profile --work FOLDER    # after `bench.onnx_cpu build`; results/onnx/profile.json, profile.md

One thread. A runtime that watches itself is a little slower, so what is recorded are shares, not speeds. The bound of a
form is what it would reach if its products ran as fast as the dense ones for each multiplication that is left, and if
gathering columns and joining outputs were free; what is not a product costs what it costs the form (heads and neurons,
and the native kernel, which adds biases and residuals and computes GELU on the way) or dense (other blocks, which leave
all activations as wide as they were).
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from bench.onnx_cpu import BATCHES, VARIANTS, bound, inputs_of
from bench.records import RESULTS, Json, markdown, where
from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.export.native.build import built
from vlcompress.export.runtime import SKIP_LAYER_NORM

FORMS = (
    "dense",
    "heads and neurons",
    "192x16",
    "768x16",
    "16x1, native kernel",
    "192x16, native kernel",
    "heads and neurons, int8",
    "dense, int8",
)
SPARSITY = 70
RUNS = 12

KINDS: Mapping[str, tuple[str, ...]] = {
    "products": ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    "packed nodes": ("BlockSparseLinear",),
    "gathers": ("Gather",),
    "joins": ("Concat", "Reshape"),
    "GELU": ("BiasGelu", "Gelu", "FastGelu"),
    "additions": ("Add",),
    "softmax and turns": ("Softmax", "Transpose"),
    "normalisation": ("LayerNormalization", "SkipLayerNormalization"),
    "quantising": ("DynamicQuantizeLinear",),
}
"""Operators by what they are for; all others are "else"."""


def profile(file: Path, native: bool, batch: int, size: str = "base") -> dict[str, float]:
    """Measure the milliseconds of each kind of operator in a call, over the faster half of RUNS calls, and "all"."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        library = built()
        if native and library is not None:
            options.register_custom_ops_library(str(library.library))
        session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"], disabled_optimizers=[SKIP_LAYER_NORM]
        )
        call = bound(session, inputs_of(batch, size))
        for _ in range(RUNS):
            call()
        return shares(json.loads(Path(session.end_profiling()).read_text()))


def shares(events: Sequence[Json]) -> dict[str, float]:
    """Add up a profile's events: milliseconds a call by kind, over the faster half of the calls."""
    calls = sorted((one for one in events if one["name"] == "model_run"), key=lambda one: int(one["dur"]))
    calls = calls[: max(1, len(calls) // 2)]
    spans = [(one["ts"], one["ts"] + one["dur"]) for one in calls]
    found: dict[str, float] = defaultdict(float)
    for one in events:
        inside = any(start <= one["ts"] <= end for start, end in spans)
        if inside and one.get("cat") == "Node" and one["name"].endswith("kernel_time"):
            found[kind(one["args"]["op_name"])] += one["dur"] / 1e3 / len(calls)
    total = sum(float(one["dur"]) for one in calls) / 1e3 / len(calls)
    found["else"] = total - sum(value for name, value in found.items() if name != "else")
    return {**found, "all": total}


def kind(operator: str) -> str:
    """Tell what an operator is for."""
    name = operator.partition("_")[0]
    return next((found for found, operators in KINDS.items() if name in operators), "else")


def bound_of(dense: Mapping[str, float], form: Mapping[str, float], percent: int, *, own: bool) -> float:
    """Reckon how many times faster than dense a form could be; `own`: with its own other operators, not dense's."""
    other = form if own else dense
    rest = other["all"] - other["products"] - other.get("packed nodes", 0.0)
    return dense["all"] / (dense["products"] * (1 - percent / 100) + rest)


def measure_all(work: Path, size: str = "base") -> Json:
    """Profile every form that was built."""
    records: list[Json] = []
    started = environment()
    for batch in BATCHES:
        dense = profile(work / "dense.onnx", False, batch, size)
        for name in FORMS:
            variant = VARIANTS[name]
            percent = 0 if variant.pattern == "dense" else SPARSITY
            file, native = work / f"{variant.file.format(percent)}.onnx", "native" in variant.options
            if not file.is_file() or (native and built() is None):
                continue
            found = dense if name == "dense" else profile(file, native, batch, size)
            float32 = variant.precision == "fp32" and percent
            own = native or variant.pattern == "neuron+head"
            limit = bound_of(dense, found, percent, own=own) if float32 else None
            records.append({"form": name, "percent": percent, "batch": batch, "ms": found, "bound": limit})
            print(name, percent, batch, {key: round(value, 1) for key, value in found.items()}, limit, flush=True)
    return {"records": records, "environment": started, "runs": RUNS}


def table(found: Json) -> str:
    """Lay out the shares."""
    kinds = [*KINDS, "else"]
    rows = [
        (
            one["form"],
            str(one["percent"] or "-"),
            str(one["batch"]),
            f"{one['ms']['all']:.1f}",
            *(f"{100 * one['ms'].get(name, 0.0) / one['ms']['all']:.0f} %" for name in kinds),
            "-" if one["bound"] is None else f"{one['bound']:.2f}",
        )
        for one in found["records"]
    ]
    return (
        "LXMERT-base, 20 words, 36 regions, stock ONNX Runtime, one thread, random weights and masks. "
        f"{where([found['environment']])}\n\n"
        f"Share of a call by kind of operator, over the faster half of {found['runs']} calls. *at best* is how many "
        "times faster than dense the form could be on this machine if its products ran as fast as the dense ones for "
        "each multiplication that is left and gathers and joins were free. Accuracy is in accuracy.md, speeds are in "
        "cpu.md.\n\n" + markdown(("form", "%", "batch", "ms", *kinds, "at best"), rows)
    )


def main() -> None:
    """Profile and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-cpu"))
    parser.add_argument("--size", default="base", help="of LXMERT; others than base are for trying the script out")
    options = parser.parse_args()
    found = measure_all(options.work, options.size)
    write_file(RESULTS / "onnx" / "profile.json", dumps(found))
    write_file(RESULTS / "onnx" / "profile.md", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
