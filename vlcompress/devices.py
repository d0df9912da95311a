"""Where a command computes and in what: the device and the dtype, parsed once and handed down as one value.

Dtypes: ``fp32`` is IEEE float32 throughout; ``tf32`` keeps float32 tensors and lets tensor cores multiply them with 10
bits of mantissa; ``bf16`` and ``fp16`` mean weights and float inputs of that type at inference, and autocast over
float32 master weights in training. Scores are float32 in any of them.

torch is imported where it is used: the server's settings hold a `Compute` without it.
"""

import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vlcompress.errors import VlcompressError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
HALVES = ("bf16", "fp16")
"""Dtypes of two bytes."""

AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32 and bfloat16 tensor cores."""

_TF32: dict[bool, tuple[str, bool]] = {True: ("high", True), False: ("highest", False)}
"""torch's name for how matrices are multiplied, and whether convolutions take TF32."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Compute:
    """Device and dtype of a computation; the default is what everything else is compared with.

    Attributes:
        device: "cpu", "cuda" (the first one) or "cuda:N".
        dtype: see the module.
    """

    device: str = "cpu"
    dtype: Dtype = "fp32"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def torch_device(self) -> "torch.device":
        """The device as torch has it."""
        import torch

        return torch.device(self.device)

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The dtype of weights and float inputs at inference; TF32 is a way to multiply float32."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.dtype, torch.float32)

    def describe(self) -> dict[str, str]:
        """Return "device", "dtype" and "name" (of the GPU, or the CPU's model) as JSON."""
        import torch

        name = torch.cuda.get_device_name(self.device) if self.on_gpu else cpu_model()
        return {"device": self.device, "dtype": self.dtype, "name": name}

    def identity(self) -> dict[str, str]:
        """Return what of it decides the bits of a result: {} at the default, else architecture and dtype."""
        if self == CPU:
            return {}
        import torch

        major, minor = torch.cuda.get_device_capability(self.device) if self.on_gpu else (0, 0)
        return {"device": f"cuda sm_{major}{minor}" if self.on_gpu else self.device, "dtype": self.dtype}


CPU = Compute()
"""The default: float32 on the CPU."""


def computed_on(compute: Compute) -> dict[str, dict[str, str]]:
    """Return the entry of a document for where it was computed; {} at the default, so that no older name changes."""
    said = compute.identity()
    return {"computed_on": said} if said else {}


def parse_compute(device: str, dtype: str, *, training: bool = False) -> Compute:
    """Return the device and dtype that were asked for, checked against this machine.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        dtype: one of `DTYPES`.
        training: whether gradients are taken.

    Raises:
        VlcompressError: a name that is unknown, a device that is not there, or a dtype that it does not have.
    """
    check_device(device)
    check_dtype(dtype)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    if device.startswith("cuda"):
        _check_gpu(device, dtype, count)
    else:
        _check_cpu(dtype, training)
    return Compute(device, dtype)  # type: ignore[arg-type]


def check_device(device: str) -> None:
    """Check the spelling of a device, without looking whether it is there.

    Raises:
        VlcompressError: not "auto", "cpu", "cuda" or "cuda:N".
    """
    if not _DEVICE.fullmatch(device):
        raise unknown("device", device, ("auto", "cpu", "cuda", "cuda:N"))


def check_dtype(dtype: str) -> None:
    """Check the name of a dtype.

    Raises:
        VlcompressError: not one of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


def _check_gpu(device: str, dtype: str, count: int) -> None:
    import torch

    if not count:
        raise VlcompressError(f"device '{device}' was asked for, but torch sees no GPU: use --device cpu or auto")
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise VlcompressError(f"device '{device}' is not there: torch sees {count} GPU(s), give cuda:0 to {count - 1}")
    major, minor = torch.cuda.get_device_capability(index)
    if dtype in ("tf32", "bf16") and (major, minor) < AMPERE:
        raise VlcompressError(
            f"dtype {dtype} on {torch.cuda.get_device_name(index)} (sm_{major}{minor}): it takes sm_80 or newer; "
            "use fp32 or fp16"
        )


def _check_cpu(dtype: str, training: bool) -> None:
    if dtype == "tf32":
        raise VlcompressError("dtype tf32 is a mode of NVIDIA tensor cores: use fp32 or bf16 on the CPU")
    if dtype == "fp16" and training:
        raise VlcompressError("dtype fp16 does not train on the CPU: use bf16 or fp32, or a GPU")


@contextmanager
def precision(compute: Compute) -> Iterator[None]:
    """Multiply float32 on tensor cores only where the dtype is tf32, on the named device; as before on leaving.

    cuDNN takes TF32 for convolutions unless it is told otherwise, so fp32 has to be asked for.
    """
    if not compute.on_gpu:
        yield
        return
    before = _tf32_settings()
    _set_tf32(*_TF32[compute.dtype == "tf32"])
    try:
        with _device_guard(compute):
            yield
    finally:
        _set_tf32(*before)


def keep_precision(compute: Compute) -> None:
    """Set for the rest of the process what `precision` sets for a while: a server's threads share the setting."""
    if compute.on_gpu:
        _set_tf32(*_TF32[compute.dtype == "tf32"])


@contextmanager
def autocast(compute: Compute) -> Iterator[None]:
    """Run forward passes of a training in the dtype; parameters, gradients and optimizer stay float32."""
    import torch

    halved = compute.dtype in HALVES
    cast = torch.autocast(compute.torch_device.type, compute.torch_dtype) if halved else nullcontext()
    with precision(compute), cast:
        yield


def placed(model: "nn.Module", compute: Compute) -> "nn.Module":
    """Move a model to the device and cast its floats to the dtype, for inference: in place, and in eval mode."""
    return model.to(compute.torch_device, compute.torch_dtype).eval()


def cast_inputs(inputs: "Mapping[str, Tensor]", compute: Compute) -> "dict[str, Tensor]":
    """Return inputs on the device, floats in the dtype and whole numbers as they are."""
    return {
        name: value.to(compute.torch_device, compute.torch_dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }


def usable() -> dict[str, list[str]]:
    """Return the dtypes of every device that is there, by the device's name."""
    import torch

    found = {"cpu": ["fp32", "bf16", "fp16 (inference)"]}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        modern = torch.cuda.get_device_capability(index) >= AMPERE
        found[f"cuda:{index}"] = [*DTYPES] if modern else ["fp32", "fp16"]
    return found


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _device_guard(compute: Compute) -> AbstractContextManager[object]:
    import torch

    return torch.cuda.device(compute.torch_device) if torch.cuda.is_available() else nullcontext()


def _tf32_settings() -> tuple[str, bool]:
    """Return the matmul precision ("high" is TF32) and whether convolutions take TF32.

    torch refuses to read its older setting once somebody has used the newer one.
    """
    import torch

    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        pass
    backends: Any = torch.backends
    matmul, conv = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    return "high" if matmul == "tf32" else "highest", conv == "tf32"


def _set_tf32(matmul: str, conv: bool) -> None:
    """Set through the older setting, which keeps both readable: torch's own compiler still reads it."""
    import torch

    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = conv
