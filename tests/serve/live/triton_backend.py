"""A backend "onnxruntime" for the tritonserver of the nvidia-pytriton wheel, which has the Python backend only.

The server reads the exported repository as it is: shapes, batching, queue policy, warm-up and labels are NVIDIA's code;
only the execution of the graph is ONNX Runtime's Python package instead of its C++ one.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["TRITON_PACKAGES"])  # the stub starts without the environment's packages

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of a model, as the Python backend wants it."""

    def initialize(self, args):
        """Open the graph of the version that is served."""
        config = json.loads(args["model_config"])
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        if int(config.get("optimization", {}).get("graph", {}).get("level", 0)) == -1:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session = onnxruntime.InferenceSession(
            file if file.is_file() else file / "model.onnx", options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        """Run the requests that Triton put together as one batch."""
        inputs = [argument.name for argument in self.session.get_inputs()]
        parts = [{name: _tensor(request, name) for name in inputs} for request in requests]
        feed = {name: np.concatenate([part[name] for part in parts]) for name in inputs}
        (logits,) = self.session.run(["logits"], feed)
        ends = np.cumsum([len(part[inputs[0]]) for part in parts])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("logits", np.ascontiguousarray(rows))])
            for rows in np.split(logits, ends)
        ]


def _tensor(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
