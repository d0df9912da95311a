"""The extra "serve" by itself, installed in a bare environment: it serves an exported folder, and checks one.

$VLCOMPRESS_SERVE_VENV names that environment: `python3 -m venv DIR && DIR/bin/pip install ".[serve]"`.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from vlcompress.bench.served import free_port, wait_ready

VENV = os.environ.get("VLCOMPRESS_SERVE_VENV", "")
pytestmark = pytest.mark.skipif(not VENV, reason="VLCOMPRESS_SERVE_VENV names no environment with vlcompress[serve]")
CLEAN = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def tool(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [f"{VENV}/bin/vlcompress", *arguments]
    return subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def url(exported: Path, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [f"{VENV}/bin/vlcompress", "serve", f"m={exported}", "--port", str(port)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, cwd=tmp_path, env=CLEAN, stderr=log) as process:
        try:
            wait_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def test_it_holds_no_torch_and_serves(url: str) -> None:
    names = {package["name"].lower() for package in json.loads(_pip("list", "--format", "json"))}
    assert "vlcompress" in names
    assert not names & {"torch", "transformers", "safetensors", "matplotlib"}
    assert httpx.get(f"{url}/v2/models/m").json()["platform"] == "onnx_onnxv1"
    assert httpx.get(f"{url}/v1").status_code == 200


def test_it_verifies_a_folder_and_says_what_the_rest_needs(exported: Path, tmp_path: Path) -> None:
    done = tool("verify", str(exported), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["stored samples"]["answer_agreement"] == 1.0
    done = tool("prune", cwd=tmp_path)
    says = "error: this needs the package 'torch', which is not installed: pip install 'vlcompress[cpu]' (or [gpu])\n"
    assert (done.returncode, done.stderr) == (2, says)


def _pip(*arguments: str) -> str:
    return subprocess.run(
        [f"{VENV}/bin/python", "-m", "pip", *arguments], capture_output=True, text=True, check=True
    ).stdout
