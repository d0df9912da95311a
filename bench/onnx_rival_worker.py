"""One runtime in its own environment, driven over stdin and stdout by bench/onnx_rivals.py. Imports nothing of ours.

Started as: python onnx_rival_worker.py RUNTIME MODEL INPUTS.npz THREADS. It prints a JSON line when it is ready
("load_s", "version"), then answers each line "CALLS" with the seconds of so many calls, and "scores PATH" by saving its
scores.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Inputs = Mapping[str, Any]
Run = Callable[[], Any]


def onnxruntime(model: str, inputs: Inputs, threads: int) -> tuple[Run, str]:
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
    feed = {value.name: inputs[value.name] for value in session.get_inputs()}
    return lambda: session.run(["logits"], feed)[0], runtime.__version__


def openvino(model: str, inputs: Inputs, threads: int, settings: Mapping[str, Any] | None = None) -> tuple[Run, str]:
    """OpenVINO in float32, unless the settings say otherwise."""
    import openvino as runtime

    core = runtime.Core()
    fixed = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", {**fixed, **(settings or {})})
    feed = {value.any_name: inputs[value.any_name] for value in compiled.inputs}
    request = compiled.create_infer_request()
    return lambda: next(iter(request.infer(feed).values())), runtime.__version__


def openvino_bf16(model: str, inputs: Inputs, threads: int) -> tuple[Run, str]:
    """OpenVINO in bfloat16."""
    return openvino(model, inputs, threads, {"INFERENCE_PRECISION_HINT": "bf16"})


def openvino_sparse(model: str, inputs: Inputs, threads: int) -> tuple[Run, str]:
    """OpenVINO with its decompression of sparse weights."""
    return openvino(model, inputs, threads, {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.5})


def deepsparse(model: str, inputs: Inputs, threads: int) -> tuple[Run, str]:
    """DeepSparse, which finds zeros by itself."""
    import deepsparse as runtime

    batch = len(next(iter(inputs.values())))
    copy = tempfile.mkdtemp()  # it writes its input shapes into the file that it is given
    for file in (model, f"{model}.data"):
        shutil.copy(file, copy)
    model = os.path.join(copy, os.path.basename(model))
    engine = runtime.Engine(model, batch_size=batch, num_cores=threads, input_shapes=_shapes(model, inputs))
    feed = [np.ascontiguousarray(inputs[name]) for name in engine.input_names]
    return lambda: engine.run(feed)[0], runtime.__version__


RUNTIMES = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bf16": openvino_bf16,
    "openvino-sparse": openvino_sparse,
    "deepsparse": deepsparse,
}


def _shapes(model: str, inputs: Inputs) -> list[list[int]]:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return [list(inputs[value.name].shape) for value in graph.input]


def main() -> None:
    """Load, tell, and answer until stdin ends."""
    name, model, file, threads = sys.argv[1:]
    inputs = dict(np.load(file))
    start = time.perf_counter()
    run, version = RUNTIMES[name](model, inputs, int(threads))
    load = time.perf_counter() - start
    run()
    print(json.dumps({"load_s": round(load, 2), "version": version}), flush=True)
    for line in sys.stdin:
        if line.startswith("scores "):
            np.save(line.split(" ", 1)[1].strip(), np.asarray(run()))
            print("{}", flush=True)
            continue
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
