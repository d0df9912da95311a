"""NVIDIA's tritonserver from the nvidia-pytriton wheel, as the reference that our server is compared with.

The wheel wants numpy<2, so it lives in an environment of its own, which ``VLCOMPRESS_TRITON_VENV`` names::

    python3.11 -m venv triton && triton/bin/pip install nvidia-pytriton==0.7.0 "numpy<2" onnxruntime
    VLCOMPRESS_TRITON_VENV=$PWD/triton python -m pytest -m triton_server
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vlcompress.bench.served import Served, free_port, wait_ready

VARIABLE = "VLCOMPRESS_TRITON_VENV"


@contextlib.contextmanager
def triton_server(venv: Path, repository: Path) -> Iterator[Served]:
    """Run the real server on a model repository until the block ends."""
    (packages,) = venv.glob("lib/python3.*/site-packages")
    wheel = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    port, grpc_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        backends = Path(folder)
        python = shutil.copytree(wheel / "backends" / "python", backends / "python")
        shutil.copy(wheel / "python_backend_stubs" / version / "triton_python_backend_stub", python)
        (backends / "onnxruntime").mkdir()
        shutil.copy(Path(__file__).with_name("triton_backend.py"), backends / "onnxruntime" / "model.py")
        libraries = _library_folders(venv, packages)
        command = [
            wheel / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={backends}",
            "--http-address=127.0.0.1", f"--http-port={port}", f"--grpc-port={grpc_port}",
            "--grpc-address=127.0.0.1", "--allow-metrics=false",
            "--exit-timeout-secs=2",
        ]  # fmt: skip
        environment = {**os.environ, "TRITON_PACKAGES": str(packages), "LD_LIBRARY_PATH": libraries}
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            try:
                wait_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log)
                yield Served(f"127.0.0.1:{port}", process.pid, f"127.0.0.1:{grpc_port}")
            finally:
                process.terminate()


def _library_folders(venv: Path, packages: Path) -> str:
    """Return where libpython and the wheel's own libraries are: the stub links to both."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    found = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    return f"{found.stdout.strip()}:{packages / 'nvidia_pytriton.libs'}"


def installed() -> Path | None:
    """Return the environment that the variable names, None without it."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named and sys.platform == "linux" else None
