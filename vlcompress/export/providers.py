"""ONNX Runtime's execution providers, spelled in one word: "cpu", "cuda", "tensorrt", or with options
"cuda,use_tf32=1,device_id=1". That word is what settings and manifests hold, and what a session is opened with.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError, unknown

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""Execution providers by the names that this project gives them."""

Option = tuple[str, str]
Chain = list[tuple[str, dict[str, str]]]
"""Providers in the order in which nodes are offered to them, each with its options."""


@dataclass(frozen=True)
class Provider:
    """A provider with its options, as ONNX Runtime calls them.

    Attributes:
        name: key of `PROVIDERS` (a server knows more).
        options: those that were asked for; `chain` adds this project's defaults.
    """

    name: str
    options: Mapping[str, str]

    def chain(self, names: Mapping[str, str] = PROVIDERS) -> Chain:
        """List the providers to open a session with: TensorRT falls back to CUDA, and all of them to the CPU.

        Args:
            names: ONNX Runtime's name of each provider.
        """
        found: Chain = [(names[self.name], {**_defaults(self.name, self.options), **self.options})]
        if self.name == "tensorrt":
            shared = {key: value for key, value in self.options.items() if key == "device_id"}
            found.append((names["cuda"], {**_defaults("cuda", shared), **shared}))
        return found if self.name == "cpu" else [*found, (names["cpu"], {})]

    @property
    def device(self) -> tuple[str, int]:
        """The kind and the number of the device that its tensors live on."""
        gpu = self.name in ("cuda", "tensorrt")
        return ("cuda", int(self.options.get("device_id", "0"))) if gpu else ("cpu", 0)


def _defaults(name: str, options: Mapping[str, str]) -> dict[str, str]:
    """Set what ONNX Runtime is told unless the user says otherwise.

    It multiplies float32 in TF32 by default: enough to fail the check against PyTorch. A TensorRT engine takes minutes
    to build, so it is kept.
    """
    if name == "cuda":
        return {"use_tf32": "0"}
    if name == "tensorrt" and options.get("trt_engine_cache_enable", "1") == "1":
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlcompress" / "tensorrt"
        return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    return {}


def read_option(text: str) -> Option:
    """Read one KEY=VALUE.

    Raises:
        VlcompressError: anything else.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier() or not value or "," in value:
        raise VlcompressError(f"provider option '{text}' is not KEY=VALUE: give, for example, use_tf32=1")
    return key, value


def parse_provider(spelled: str, names: Mapping[str, str] = PROVIDERS) -> Provider:
    """Read a provider's word.

    Raises:
        VlcompressError: an unknown provider, or an option that is not KEY=VALUE.
    """
    name, *options = spelled.split(",")
    if name not in names:
        raise unknown("provider", name, names)
    return Provider(name, dict(read_option(option) for option in options))


def spell_provider(
    name: str,
    options: Sequence[Option] = (),
    *,
    compute: Compute | None = None,
    half: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Spell a provider and what was asked of it in one word.

    Args:
        name: a provider.
        options: given by the user; they win over what follows.
        compute: what PyTorch computes beside it: on the same GPU, and with TF32 where that is asked for.
        half: whether the file is float16, or may be run in it.
        say: told of options that have no effect.
    """
    if name == "cpu":
        for key, value in options:
            say(f"warning: provider option {key}={value} has no effect on provider cpu")
        return name
    found: dict[str, str] = {}
    if compute is not None and ":" in compute.device:
        found["device_id"] = compute.device.partition(":")[2]
    if compute is not None and compute.dtype == "tf32" and name == "cuda":
        found["use_tf32"] = "1"
    if half and name == "tensorrt":
        found["trt_fp16_enable"] = "1"
    return ",".join([name, *(f"{key}={value}" for key, value in {**found, **dict(options)}.items())])
