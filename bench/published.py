"""The published path at its real size: each command's time, peak memory and bytes, with official files made up here.

    python -m bench.published lxmert [--folder FOLDER] [--out bench/results/published/lxmert.json]

Data as the official code's scripts write it (36 boxes of 2048 features in TSV and LMDB, 640 x 480 JPEG in Arrow, 3129
answers), and a checkpoint of the base size under the official names with random weights: `prune` for some steps, then
`compile`, `export`, `bench`, and `serve` with one question. It shows that nothing in the path breaks at size; scores of
random weights after so few steps say nothing. FOLDER is left with what was made; it takes about 6 GB.
"""

import argparse
import base64
import io
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.published_data import DATA, SIZES, SPLITS, WIDTH, questions, regions, vilt_row, vocabulary
from bench.records import write_record
from vlcompress.models.base import Head
from vlcompress.models.registry import family_named

PRUNE = "--schedule oneshot --sparsity 0.7 --seeds 0 --control random --steps 2 --batch 8"
PORT = 8341


def official(family: str, folder: Path) -> Path:
    """Save random pre-trained weights of the base size as the official code does: file, names and heads."""
    known = family_named(family)
    labels = tuple(f"answer {number}" for number in range(9500)) if family == "lxmert" else ()
    config = known.config("base", vocab_size=SIZES[family], feature_dim=0 if family == "vilt" else WIDTH)
    weights = known.build(config, Head("pretraining", labels), seed=1).state_dict()
    name, renamed = OFFICIAL[family]
    named, path = renamed(weights), folder / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": named} if family == "vilt" else named, path)
    return path


def _of_lxmert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{re.sub('^lxmert', 'bert', name)}": tensor for name, tensor in weights.items()}


TO_VILT = (
    (r"^vilt\.encoder\.layer\.(\d+)\.", r"transformer.blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^vilt\.embeddings\.cls_token", "transformer.cls_token"),
    (r"^vilt\.embeddings\.position_embeddings", "transformer.pos_embed"),
    (r"^vilt\.embeddings\.patch_embeddings\.projection", "transformer.patch_embed.proj"),
    (r"^vilt\.layernorm", "transformer.norm"),
    (r"^vilt\.(embeddings\.)?", ""),
    (r"^mlm_score\.decoder\.bias", "mlm_score.bias"),
)


def _of_vilt(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the renaming of the adapter round, and fuse query, key and value."""
    fused: dict[str, list[Tensor]] = {}
    for name, tensor in weights.items():
        for pattern, replacement in TO_VILT:
            name = re.sub(pattern, replacement, name)
        fused.setdefault(re.sub(r"\.attention\.attention\.(query|key|value)\.", ".attn.qkv.", name), []).append(tensor)
    return {name: torch.cat(parts) if len(parts) == 3 else parts[0] for name, parts in fused.items()}


OFFICIAL: dict[str, tuple[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "lxmert": ("model_LXRT.pth", _of_lxmert),
    "uniter": ("uniter-base.pt", dict),
    "vilt": ("vilt_200k_mlm_itm.ckpt", _of_vilt),
}


def measured(command: Sequence[str], home: Path) -> dict[str, Any]:
    """Run a command of the product; its seconds, its peak memory and what the home grew by.

    Raises:
        SystemExit: it failed.
    """
    before, started = _bytes(home), time.monotonic()
    process = _start(command, home)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"vlcompress {' '.join(command)} ended with {process.returncode}")
    return _facts(started, used, _bytes(home) - before)


def _start(command: Sequence[str], home: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "VLCOMPRESS_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-m", "vlcompress", *command], env=environment)


def _facts(started: float, used: resource.struct_rusage, written: int) -> dict[str, Any]:
    """Tell seconds by the clock and of the processor: the latter do not depend on what else the machine does."""
    seconds = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1)}
    return {**seconds, "peak_mb": round(used.ru_maxrss * 1024 / 1e6), "written_mb": round(written / 1e6)}


def _bytes(folder: Path) -> int:
    """Add up the files of a folder, hard links once."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def served(family: str, home: Path) -> dict[str, Any]:
    """Serve the export: seconds until it is ready, milliseconds of a request (median of ten after the first)."""
    started = time.monotonic()
    process = _start(f"serve --port {PORT} --threads 1 --sessions 1 --deadline 60000".split(), home)
    try:
        _until_ready(process)
        ready = round(time.monotonic() - started, 1)
        first, seconds = _ask(family), []
        for _ in range(10):
            asked = time.monotonic()
            answer = _ask(family)
            seconds.append(time.monotonic() - asked)
        if answer != first:
            raise SystemExit(f"the server gave two answers to one question: {first} and {answer}")
    finally:
        process.send_signal(signal.SIGTERM)
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    facts = _facts(started, used, 0)
    return {**facts, "ready_seconds": ready, "request_ms": round(1e3 * statistics.median(seconds), 1)}


def _until_ready(process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the server ended before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server was not ready after 2 minutes")


def _ask(family: str) -> Any:
    question = questions("minival")[0]
    asked: dict[str, Any] = {"question": question.sentence, "top_k": 3}
    if family == "vilt":
        asked["image"] = base64.b64encode(vilt_row(question, "rest_val")["image"]).decode()
    else:
        arrays, image = io.BytesIO(), regions(question.img_id)
        np.savez(arrays, features=image.features, boxes=image.normalized_boxes)
        asked["features"] = base64.b64encode(arrays.getvalue()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/vqa", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["answers"]


def run(family: str, folder: Path) -> dict[str, Any]:
    """Make the official files in a folder and take the path."""
    data, home = folder / "data", folder / "runs"
    if not data.is_dir():
        DATA[family](data)
        (data / "vocab.txt").write_text("\n".join(vocabulary(family).tokens) + "\n")
    checkpoint = official(family, folder / "checkpoint")
    cell = f"--model {family} --task vqa --size base --data {data} --checkpoint {checkpoint}".split()
    commands = {
        "data check": ["data", "check", str(data)],
        "prune": ["prune", *cell, *PRUNE.split()],
        "compile": ["compile", "--batch", "8"],
        "export": ["export", "--format", "onnx", "--batch", "8"],
        "bench": ["bench", "--batch", "1", "--batch", "8"],
    }
    steps: dict[str, Any] = {}
    for name, command in commands.items():
        print(f"== {name}", file=sys.stderr, flush=True)
        steps[name] = measured(command, home)
    steps["serve"] = served(family, home)
    files = {"checkpoint": checkpoint, **{path.name: path for path in home.glob("*/onnx/model.onnx*")}}
    sizes = {name: round(path.stat().st_size / 1e6, 1) for name, path in files.items()}
    return {"family": family, "questions": SPLITS, "prune": PRUNE, "commands": steps, "file_mb": sizes}


def main() -> None:
    """Take the path of one family and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=DATA)
    parser.add_argument("--folder", type=Path, help="Where to make everything; a temporary folder by default.")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = run(chosen.family, chosen.folder or Path(scratch))
    write_record(f"python -m bench.published {chosen.family}", found, chosen.out)


if __name__ == "__main__":
    main()
