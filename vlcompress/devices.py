"""Where a command computes and in what: the device and the dtype, parsed once and handed down as one value.

Dtypes: ``fp32`` is IEEE float32 throughout; ``tf32`` keeps float32 tensors and lets tensor cores multiply them with 10
bits of mantissa; ``bf16`` and ``fp16`` mean weights and float inputs of that type at inference, and autocast over
float32 master weights in training. Scores are float32 in any of them.

torch is imported where it is used: the server's settings hold a `Compute` without it.
"""

import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompress.errors import VlcompressError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Dtype:
    """What is known of a dtype.

    Attributes:
        torch_name: torch's name for the type of weights and float inputs at inference.
        compiled: largest difference of a compiled model's scores from the masked model's, relative to the largest score
            or 1.
        forms: largest difference of any two forms of a model, relative to the largest score, on the samples of a
            benchmark.
        agreement: least share of those samples on which two forms give the same best answer; one of a few that turns is
            a few per cent.
        autocast: whether training computes in it by autocast over float32 weights.
        scaled: whether losses are scaled in training, because small gradients would become zero.
        since: compute capability of the first GPUs that have it.
        not_on_cpu: why the CPU does not compute in it.
        not_trained_on_cpu: why the CPU does not train in it.
    """

    torch_name: str
    compiled: float
    forms: float
    agreement: float
    autocast: bool = False
    scaled: bool = False
    since: tuple[int, int] = (0, 0)
    not_on_cpu: str = ""
    not_trained_on_cpu: str = ""


AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32 and bfloat16 tensor cores."""

DTYPES: dict[str, Dtype] = {
    "fp32": Dtype("float32", compiled=1e-4, forms=1e-4, agreement=1.0),
    "tf32": Dtype(
        "float32",
        compiled=5e-3,
        forms=0.02,
        agreement=0.95,
        since=AMPERE,
        not_on_cpu="is a mode of NVIDIA tensor cores: use fp32 or bf16 on the CPU",
    ),
    "bf16": Dtype("bfloat16", compiled=5e-2, forms=0.1, agreement=0.9, autocast=True, since=AMPERE),
    "fp16": Dtype(
        "float16",
        compiled=1e-2,
        forms=0.02,
        agreement=0.95,
        autocast=True,
        scaled=True,
        not_trained_on_cpu="does not train on the CPU: use bf16 or fp32, or a GPU",
    ),
}
"""Everything that this project asks of a dtype, in one place (bfloat16 has 8 bits, whose roundings add up over the
layers)."""

_TF32: dict[bool, tuple[str, bool]] = {True: ("high", True), False: ("highest", False)}
"""torch's name for how matrices are multiplied, and whether convolutions take TF32."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class MicroBatch(int):
    """Most examples that a training step computes at once, its batch in parts; 0 is the whole batch, -1 `AUTO`."""

    def __str__(self) -> str:
        return "auto" if self == AUTO else str(int(self))


AUTO = MicroBatch(-1)
"""The largest micro-batch that fits, which is looked for before anything is trained."""


def parse_micro_batch(text: str) -> MicroBatch:
    """Read "auto", a number of examples, or "0" for the whole batch.

    Raises:
        VlcompressError: anything else.
    """
    if text == "auto":
        return AUTO
    if not text.isdecimal() or len(text) > 9 or int(text) > 1 << 16:  # int() refuses thousands of digits
        raise VlcompressError(
            f"micro-batch '{text[:20]}': give auto, a number of examples up to 65536, or 0 for the whole batch"
        )
    return MicroBatch(text)


@dataclass(frozen=True)
class Compute:
    """Device and dtype of a computation; the default is what everything else is compared with.

    Attributes:
        device: "cpu", "cuda" (the first one) or "cuda:N".
        dtype: one of `DTYPES`.
        micro_batch: most examples that a training step computes at once.
        activation_checkpointing: keep what enters a block in a forward pass, and compute what is inside it again in
            the backward pass: the same bits in less memory and more time.
        devices: how many of them share each training, a process each (`vlcompress.training.ranks`); all else is
            computed on the first.
        readers: threads that make a training's batches, each a step of its own; they change no bit.
    """

    device: str = "cpu"
    dtype: str = "fp32"
    micro_batch: MicroBatch = MicroBatch(0)  # noqa: RUF009 (an int)
    activation_checkpointing: bool = False
    devices: int = 1
    readers: int = 1

    def for_batch(self, batch: float) -> "Compute":
        """Leave out a micro-batch that is no smaller than a device's share of the batch: it changes nothing."""
        return replace(self, micro_batch=MicroBatch(0)) if self.micro_batch * self.devices >= batch else self

    def of_rank(self, rank: int) -> "Compute":
        """Return what the process of rank `rank` computes on: the GPU of its number; the first keeps its name."""
        return replace(self, device=f"cuda:{rank}") if self.on_gpu and rank else self

    @property
    def facts(self) -> Dtype:
        """What is known of the dtype."""
        return DTYPES[self.dtype]

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

        found: torch.dtype = getattr(torch, self.facts.torch_name)
        return found

    def describe(self) -> dict[str, str]:
        """Return "device", "dtype" and "name" (of the GPU, or the CPU's model) as JSON."""
        import torch

        name = torch.cuda.get_device_name(self.device) if self.on_gpu else cpu_model()
        return {"device": self.device, "dtype": self.dtype, "name": name}

    def identity(self) -> dict[str, str]:
        """Tell what of it decides the bits of a result: {} at the default, else architecture, dtype, batch parts."""
        parts = {"micro_batch": str(self.micro_batch)} if self.micro_batch else {}
        parts |= {"devices": str(self.devices)} if self.devices > 1 else {}
        if not parts and (self.device, self.dtype) == (CPU.device, CPU.dtype):
            return {}
        import torch

        major, minor = torch.cuda.get_device_capability(self.device) if self.on_gpu else (0, 0)
        return {"device": f"cuda sm_{major}{minor}" if self.on_gpu else self.device, "dtype": self.dtype, **parts}


def spelt(computed: Mapping[str, str]) -> str:
    """Say for people what `Compute.identity` says."""
    parts = f", {computed['micro_batch']} examples at once" if "micro_batch" in computed else ""
    parts += f", {computed['devices']} devices" if "devices" in computed else ""
    return f"{computed['device']} in {computed['dtype']}{parts}"


CPU = Compute()
"""The default: float32 on the CPU."""


def computed_on(compute: Compute) -> dict[str, dict[str, str]]:
    """Return the entry of a document for where it was computed; {} at the default, so that no older name changes."""
    said = compute.identity()
    return {"computed_on": said} if said else {}


def parse_compute(
    device: str,
    dtype: str,
    *,
    training: bool = False,
    micro_batch: int = 0,
    activation_checkpointing: bool = False,
    devices: int = 1,
    readers: int = 1,
) -> Compute:
    """Return the device and dtype that were asked for, checked against this machine.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        dtype: one of `DTYPES`.
        training: whether gradients are taken.
        micro_batch, activation_checkpointing, devices, readers: see `Compute`.

    Raises:
        VlcompressError: a name that is unknown, devices that are not there, or a dtype that they do not have.
    """
    check_device(device)
    check_dtype(dtype)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices > 1:
        _check_devices(device, devices, count)
    if device == "auto":
        device = "cuda" if count else "cpu"
    if device.startswith("cuda"):
        for one in (device, *(f"cuda:{rank}" for rank in range(1, devices))):
            _check_gpu(one, dtype, count)
    else:
        _check_cpu(dtype, training)
    return Compute(device, dtype, MicroBatch(micro_batch), activation_checkpointing, devices, readers)


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


def _check_devices(device: str, devices: int, count: int) -> None:
    """Refuse to share trainings among more devices than there are, or among named ones."""
    if ":" in device:
        raise VlcompressError(
            f"devices {devices} beside device '{device}': the first {devices} GPUs are taken, give --device cuda "
            "(the environment's CUDA_VISIBLE_DEVICES says which those are)"
        )
    if device == "auto" and not count:
        raise VlcompressError(
            f"devices {devices}: torch sees no GPU; --device cpu takes {devices} processes on the CPU, for trying it"
        )
    there, what = (len(os.sched_getaffinity(0)), "processor(s)") if device == "cpu" else (count, "GPU(s)")
    if 0 < there < devices:
        raise VlcompressError(f"devices {devices}: there are {there} {what} here, give --devices {there} or less")


def _check_gpu(device: str, dtype: str, count: int) -> None:
    import torch

    if not count:
        raise VlcompressError(f"device '{device}' was asked for, but torch sees no GPU: use --device cpu or auto")
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise VlcompressError(f"device '{device}' is not there: torch sees {count} GPU(s), give cuda:0 to {count - 1}")
    capability, since = torch.cuda.get_device_capability(index), DTYPES[dtype].since
    if capability < since:
        name, (major, minor) = torch.cuda.get_device_name(index), capability
        have = " or ".join(_dtypes_since(capability))
        raise VlcompressError(
            f"dtype {dtype} on {name} (sm_{major}{minor}): it takes sm_{since[0]}{since[1]} or newer; use {have}"
        )


def _dtypes_since(capability: tuple[int, int]) -> list[str]:
    """Name the dtypes of a GPU."""
    return [name for name, facts in DTYPES.items() if facts.since <= capability]


def _check_cpu(dtype: str, training: bool) -> None:
    why = DTYPES[dtype].not_on_cpu or (training and DTYPES[dtype].not_trained_on_cpu)
    if why:
        raise VlcompressError(f"dtype {dtype} {why}")


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

    halved = compute.facts.autocast
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

    on_cpu = {name: facts for name, facts in DTYPES.items() if not facts.not_on_cpu}
    found = {"cpu": [f"{name} (inference)" if facts.not_trained_on_cpu else name for name, facts in on_cpu.items()]}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found[f"cuda:{index}"] = _dtypes_since(torch.cuda.get_device_capability(index))
    return found


def cpu_facts() -> dict[str, str]:
    """Read what Linux tells of the first processor: "model name", "flags" ("Features" on ARM); {} elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key.strip(): text.strip() for key, _, text in (line.partition(":") for line in reversed(lines))}


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    facts = cpu_facts()
    return facts.get("model name") or ("" if facts else platform.processor()) or platform.machine()


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
