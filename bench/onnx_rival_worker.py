"""One runtime in its own environment, driven over stdin and stdout by bench/onnx_rivals.py.

Started as: python onnx_rival_worker.py RUNTIME MODEL FOLDER THREADS BATCH... with inputs in FOLDER/BATCH.npz. It prints
a JSON line when it is ready ("load_s", "version"), then answers each line "BATCH CALLS" with the seconds of so many
calls, and "BATCH scores PATH" by saving its scores. Imports nothing of ours, but for PyTorch, which needs the model.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Inputs = Mapping[str, Any]
Batches = Mapping[int, Inputs]
Run = Callable[[], Any]
Runs = dict[int, Run]


def onnxruntime(model: str, batches: Batches, threads: int) -> tuple[Runs, str]:
    """Stock ONNX Runtime without the slow fusion; with our operator library where its path is in the model's name."""
    import onnxruntime as runtime

    model, _, library = model.partition("@")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        name, _, precision = library.partition("@")
        options.add_session_config_entry("vlcompress.precision", precision or "float32")
        options.register_custom_ops_library(name)
    session = runtime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )
    names = [value.name for value in session.get_inputs()]

    def bound(inputs: Inputs) -> Run:
        feed = {name: inputs[name] for name in names}
        return lambda: session.run(["logits"], feed)[0]

    return {batch: bound(inputs) for batch, inputs in batches.items()}, runtime.__version__


def openvino(model: str, batches: Batches, threads: int, settings: Mapping[str, Any] | None = None) -> tuple[Runs, str]:
    """OpenVINO in float32, unless the settings say otherwise."""
    import openvino as runtime

    core = runtime.Core()
    fixed = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", {**fixed, **(settings or {})})
    names = [value.any_name for value in compiled.inputs]

    def bound(inputs: Inputs) -> Run:
        request, feed = compiled.create_infer_request(), {name: inputs[name] for name in names}
        return lambda: next(iter(request.infer(feed).values()))

    return {batch: bound(inputs) for batch, inputs in batches.items()}, runtime.__version__


def openvino_bf16(model: str, batches: Batches, threads: int) -> tuple[Runs, str]:
    """OpenVINO in bfloat16."""
    return openvino(model, batches, threads, {"INFERENCE_PRECISION_HINT": "bf16"})


def openvino_sparse(model: str, batches: Batches, threads: int) -> tuple[Runs, str]:
    """OpenVINO with its decompression of sparse weights."""
    return openvino(model, batches, threads, {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.5})


def deepsparse(model: str, batches: Batches, threads: int) -> tuple[Runs, str]:
    """DeepSparse, which finds zeros by itself; a graph for each batch size, as it fixes that."""
    import deepsparse as runtime

    def bound(batch: int, inputs: Inputs) -> Run:
        engine = runtime.Engine(model.format(batch), batch_size=batch, num_cores=threads)
        feed = [np.ascontiguousarray(inputs[name]) for name in engine.input_names]
        return lambda: engine.run(feed)[0]

    return {batch: bound(batch, inputs) for batch, inputs in batches.items()}, runtime.__version__


def torch_compiled(size: str, batches: Batches, threads: int, precision: str = "float32") -> tuple[Runs, str]:
    """PyTorch's compiler on the dense model, each batch size compiled on its own."""
    import torch

    from bench.onnx_cpu import dense_model

    torch.set_num_threads(threads)
    dtype = getattr(torch, precision)
    family, _, model = dense_model(size)
    model = model.to(dtype)
    call = torch.compile(lambda inputs: family.logits(model, inputs).float(), dynamic=False)

    def bound(inputs: Inputs) -> Run:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}

        def run() -> Any:
            with torch.inference_mode():
                return call(tensors).numpy()

        return run

    return {batch: bound(inputs) for batch, inputs in batches.items()}, torch.__version__


def torch_bf16(size: str, batches: Batches, threads: int) -> tuple[Runs, str]:
    """The same in bfloat16."""
    return torch_compiled(size, batches, threads, "bfloat16")


RUNTIMES = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bf16": openvino_bf16,
    "openvino-sparse": openvino_sparse,
    "deepsparse": deepsparse,
    "torch": torch_compiled,
    "torch-bf16": torch_bf16,
}


def _answer(run: Run, asked: str) -> Any:
    """Save the scores, or time calls."""
    if asked.startswith("scores "):
        np.save(asked.partition(" ")[2], np.asarray(run()))
        return {}
    times = []
    for _ in range(int(asked)):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Load, tell, and answer until stdin ends."""
    name, model, folder, threads, *sizes = sys.argv[1:]
    batches = {int(size): dict(np.load(os.path.join(folder, f"{size}.npz"))) for size in sizes}
    start = time.perf_counter()
    runs, version = RUNTIMES[name](model, batches, int(threads))
    for run in runs.values():  # PyTorch compiles at the first call
        run()
    load = time.perf_counter() - start
    print(json.dumps({"load_s": round(load, 2), "version": version}), flush=True)
    for line in sys.stdin:
        batch, _, asked = line.strip().partition(" ")
        print(json.dumps(_answer(runs[int(batch)], asked)), flush=True)


if __name__ == "__main__":
    main()
