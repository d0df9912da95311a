"""The build folder of an image: what its files say, and that its entry point serves the model."""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlcompress.artefacts import unseal
from vlcompress.bench.served import free_port, wait_ready
from vlcompress.errors import VlcompressError
from vlcompress.export import container
from vlcompress.export.container import write_context
from vlcompress.export.onnx import export_onnx
from vlcompress.sparse.timing import Effort

NAME = "lxmert_vqa"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import make_ticket

    ticket, folder = make_ticket((1, 1), 0.5), tmp_path_factory.mktemp("exported") / "onnx"
    quick = Effort(rounds=1, burst_s=0.0, warmup=0)
    samples = [ticket.inputs]
    export_onnx(ticket.family, ticket.model, folder, samples, config=ticket.config, head=ticket.head, effort=quick)
    return folder


@pytest.fixture(scope="module")
def context(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tmp_path_factory.mktemp("ticket") / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"]) + "\n")
    folder = tmp_path_factory.mktemp("run") / "docker"
    write_context(exported, folder, NAME, vocabulary=words)
    return folder


def instruction(context: Path, name: str) -> str:
    lines = [line for line in (context / "Dockerfile").read_text().splitlines() if line.startswith(f"{name} ")]
    return lines[-1].removeprefix(f"{name} ")


def test_image_is_minimal_and_without_root(context: Path) -> None:
    assert instruction(context, "FROM").endswith("-slim")
    assert instruction(context, "USER") == "10001:10001"
    assert "/v2/health/ready" in instruction(context, "HEALTHCHECK")
    requirements = (context / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in requirements)
    copied = {path.relative_to(context).parts[0] for path in context.rglob("*")}
    assert copied == {"Dockerfile", "kserve.yaml", "manifest.json", "models", "requirements.txt", "vlcompress"}
    assert not [path for path in context.rglob("*") if path.is_symlink() or path.name == "__pycache__"]
    assert (context / "vlcompress" / "cli" / "serve.py").is_file()  # what the links point to is copied
    assert not list((context / "vlcompress").rglob("*.safetensors"))
    assert (context / "models" / NAME / "vocab.txt").is_file()


def test_kserve_runs_that_image_without_root_and_waits_until_it_is_ready(context: Path) -> None:
    service = yaml.safe_load((context / "kserve.yaml").read_text())
    predictor = service["spec"]["predictor"]
    (one,) = predictor["containers"]
    assert service["metadata"]["name"] == "lxmert-vqa"
    assert one["image"] == unseal(context, "manifest.json")["image"]
    assert one["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    assert one["startupProbe"]["httpGet"] == one["readinessProbe"]["httpGet"]
    assert predictor["securityContext"]["runAsNonRoot"]
    assert one["securityContext"]["readOnlyRootFilesystem"]


def test_kserve_gives_the_memory_that_four_sessions_and_a_new_version_take(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "size", lambda model: 400 << 20)
    write_context(exported, tmp_path / "docker", NAME, vocabulary=None)
    (one,) = yaml.safe_load((tmp_path / "docker" / "kserve.yaml").read_text())["spec"]["predictor"]["containers"]
    assert one["resources"]["limits"] == {"memory": f"{1024 + 5 * 400}Mi"}


def link_what_is_required(requirements: Path, folder: Path) -> None:
    """Fill a folder with links to the packages of a requirements file, and to what those require."""
    there: set[str] = set()
    todo = [line.partition("==")[0] for line in requirements.read_text().split()]
    while todo:
        name = todo.pop()
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        if package.name in there:
            continue
        there.add(package.name)
        todo += [re.split(r"[^\w.-]", line)[0] for line in package.requires or () if "extra ==" not in line]
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))


@pytest.mark.timeout(150)
def test_entry_point_serves_the_model_from_the_copied_package(context: Path, tmp_path: Path) -> None:
    """What the image would run, in its working folder, with nothing of the project on the path and no package besides
    those that it installs."""
    link_what_is_required(context / "requirements.txt", tmp_path)
    arguments = json.loads(instruction(context, "ENTRYPOINT"))
    port = free_port()
    command = [
        sys.executable,
        "-S",
        *arguments[1:-3],
        "127.0.0.1",
        "--port",
        str(port),
        "--threads",
        "1",
        "--sessions",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{context}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, cwd=context, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log)
            health = json.loads(instruction(context, "HEALTHCHECK").partition(" CMD ")[2])
            assert str(container.PORT) in health[-1]
            check = health[-1].replace(str(container.PORT), str(port))
            assert subprocess.run([sys.executable, "-c", check], timeout=30, check=False).returncode == 0
        finally:
            process.kill()
    assert subprocess.run([sys.executable, "-c", check], timeout=30, check=False, capture_output=True).returncode != 0


def test_a_damaged_export_is_not_packed(exported: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(exported, tmp_path / "onnx")
    (copy / "labels.txt").write_text("other\n")
    with pytest.raises(VlcompressError, match="corrupted"):
        write_context(copy, tmp_path / "docker", NAME, vocabulary=None)
    assert not (tmp_path / "docker").exists()


def test_a_package_that_is_missing_is_named(exported: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(container, "REQUIREMENTS", ("numpy", "no-such-package"))
    with pytest.raises(VlcompressError, match="needs no-such-package"):
        write_context(exported, tmp_path / "docker", NAME, vocabulary=None)
