"""MLServer's side of bench.serving_speed: it brings no ONNX runtime, so this calls onnxruntime with our settings.

It runs in MLServer's own environment, with nothing of vlcompress.
"""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One ONNX file."""

    async def load(self) -> bool:
        """Open the file as our server does."""
        extra = self.settings.parameters.extra
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = extra["threads"], 1
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options,
            providers=["CPUExecutionProvider"], disabled_optimizers=extra["disabled_optimizers"],
        )  # fmt: skip
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Decode, run, encode."""
        feed = {tensor.name: np.asarray(NumpyCodec.decode_input(tensor)) for tensor in payload.inputs}
        (logits,) = self.session.run(["logits"], feed)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])
