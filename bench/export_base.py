"""Exporting the published size: time, memory, size of the file, and how fast it loads.

    python -m bench.export_base                       # writes bench/results/export/base-192x16-70.json
    python -m bench.export_base --block 16x1 --sparsity 0.9

LXMERT-base for VQA with random weights and random block masks: what an export costs does not depend on the values. Each
stage runs in a process of its own, so that none counts the memory of another. Memory is sampled every 20 ms from the
kernel's figures for the process: `anonymous` is what it allocated, `resident` counts mapped files as well, which the
kernel may drop.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.records import RESULTS, Json
from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.export.runtime import Native
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.pruning.pattern import Block
from vlcompress.sparse.timing import Effort

ANSWERS, WORDS, FEATURES = 3129, 30522, 2048
QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)


def main() -> None:
    """Run the stages and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--block", default="192x16")
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--expand", action="store_true")
    parser.add_argument("--quantize", choices=["int8"])
    options = parser.parse_args()
    rows, columns = (int(side) for side in options.block.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared = _apart(prepare, folder, Block(rows, columns), options.sparsity, options.batch)
        exported = _apart(export, folder, options.batch, options.threads, options.expand, options.quantize)
        loads = {
            "load": loaded(folder, options.threads, "off"),
            "load_as_advised": loaded(folder, options.threads, None),
        }
    record = {
        "command": f"python -m bench.export_base {' '.join(f'--{k} {v}' for k, v in vars(options).items() if v)}",
        "environment": environment(),
        "model": prepared,
        "export": exported,
        **loads,
        "times_model_memory": round(exported["memory"]["anonymous_mb"] / prepared["dense_mb"], 2),
    }
    suffix = ("-expanded" if options.expand else "") + (f"-{options.quantize}" if options.quantize else "")
    name = f"base-{options.block}-{100 * options.sparsity:.0f}{suffix}.json"
    write_file(RESULTS / "export" / name, dumps(record))
    print(json.dumps({**record, "environment": None}, indent=1))


def prepare(folder: Path, block: Block, sparsity: float, batch: int) -> Json:
    """Make a masked LXMERT-base and compile it; untimed."""
    from vlcompress.sparse.compile import compile_model, save_compiled

    family, head = LxmertFamily(), Head("answers", tuple(f"answer {i}" for i in range(ANSWERS)))
    config = family.config("base", vocab_size=WORDS, feature_dim=FEATURES)
    model = family.build(config, head, seed=0).eval()
    masks = {}
    with torch.no_grad():
        for i, name in enumerate(family.prunable(model, "bert-tickets").names):
            weight = model.get_parameter(name)
            chance = torch.rand(weight.numel() // block.unit, generator=torch.Generator().manual_seed(i))
            masks[name] = block.spread(chance.argsort().argsort() >= round(sparsity * len(chance)), weight.shape)
            weight *= masks[name]
    inputs = family.example_inputs(config, batch=batch, text=20, regions=36, seed=1)
    sides = (block.rows, block.cols)
    compiled, plan = compile_model(family, model, masks, sides, inputs=inputs, effort=QUICK)
    save_compiled(folder / "compiled", compiled.state_dict(), plan, family=family, config=config, head=head, extra={})
    dense = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": dense, "dense_mb": round(4 * dense / 1e6, 1), "pruned_layers": len(masks)}


def export(folder: Path, batch: int, threads: int, expand: bool, quantize: str | None) -> Json:
    """Export the compiled model."""
    from vlcompress.export.onnx import export_onnx, style
    from vlcompress.sparse.compile import load_compiled

    family = LxmertFamily()
    with _memory() as memory:
        compiled = load_compiled(folder / "compiled", {"lxmert": family})
        samples = [
            family.example_inputs(compiled.config, batch=batch, text=20, regions=36, seed=i) for i in range(64 // batch)
        ]
        started = time.perf_counter()
        manifest = export_onnx(
            family,
            compiled.model,
            folder / "onnx",
            samples,
            config=compiled.config,
            head=compiled.head,
            threads=threads,
            style=style(quantize=quantize, expand=expand),
        )
        seconds = time.perf_counter() - started
    forms = [layer["form"].partition(":")[0] for layer in manifest["layers"]]
    return {
        "seconds": round(seconds, 1),
        "memory": memory,
        "bytes": manifest["bytes"],
        "parity": manifest["parity"],
        "speed": manifest["speed"],
        "native": manifest["native"],
        "forms": {form: forms.count(form) for form in sorted(set(forms))},
    }


def loaded(folder: Path, threads: int, native: Native | None) -> Json:
    """Take the median of three openings, each in a process of its own."""
    found = [_apart(load, folder, threads, native) for _ in range(3)]
    return {key: sorted(one[key] for one in found)[1] for key in found[0]}


def load(folder: Path, threads: int, native: Native | None) -> Json:
    """Open the exported file: with standard operators if `native` is "off", as the export advises if it is None."""
    from vlcompress.artefacts import read_json
    from vlcompress.export.runtime import open_session

    skip = bool(read_json(folder / "onnx" / "manifest.json")["speed"]["disabled_optimizers"])
    with _memory() as memory:
        started = time.perf_counter()
        open_session(folder / "onnx" / "model.onnx", threads=threads, disable_skip_layer_norm=skip, native=native)
        seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), **memory}


@contextmanager
def _memory() -> Iterator[dict[str, float]]:
    """Fill a dictionary with the most megabytes that the block added."""
    peaks: dict[str, float] = {"anonymous_mb": 0.0, "resident_mb": 0.0}
    ended, start = threading.Event(), _resident()

    def watch() -> None:
        while not ended.wait(0.02):
            for name, now in _resident().items():
                peaks[name] = max(peaks[name], round(now - start[name], 1))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _resident() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Rss")}
    return {"anonymous_mb": found["RssAnon"], "resident_mb": sum(found.values())}


def _apart(stage: Callable[..., Json], *arguments: Any) -> Json:
    """Run a stage in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(stage, arguments)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
