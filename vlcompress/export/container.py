"""An exported model as a container image's build folder, with the manifest that runs the image on KServe.

    FOLDER/Dockerfile         minimal base, no root, a health check
    FOLDER/requirements.txt   the versions that are installed here, which the export was verified with
    FOLDER/vlcompress/        this very package: nothing depends on what a registry has
    FOLDER/models/NAME/       the exported folder, and the ticket's vocabulary
    FOLDER/kserve.yaml        an InferenceService of that image

The folder is written for one model, rather than kept in the project as a template, so that an image holds all that it
serves: image, model and versions cannot drift apart.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

import vlcompress
from vlcompress.artefacts import file_sha256, seal, write_file, writing
from vlcompress.errors import VlcompressError
from vlcompress.export.manifest import load_manifest
from vlcompress.export.model_repository import model_name
from vlcompress.export.storage import size
from vlcompress.results import to_json
from vlcompress.tickets.run import Run

PORT = 8080
"""Where KServe and most platforms look."""
USER = 10001

SERVER_MIB = 1024
"""Memory of a server beside the weights, in MiB: its code, and requests of the size that it accepts at once."""

COPIES = 5
"""Copies of the weights that fit: the four sessions that a server tries at most, and a new version beside them."""

REQUIREMENTS = (
    "click", "hpack", "httptools", "numpy", "onnx", "onnxruntime", "orjson", "pillow", "prometheus-client", "protobuf",
    "pydantic", "starlette", "tokenizers", "uvicorn", "uvloop",
)  # fmt: skip
"""What `vlcompress serve` imports for an exported file: no torch."""

LEFT_OUT = ("__pycache__", "*.pyc", "*.safetensors", "*.toml", ".*")
"""Parts of the package that a server does not read: caches, built-in weights, recipes."""

DOCKERFILE = Template(
    """\
FROM python:3.12-slim
WORKDIR /srv/vlcompress
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY vlcompress vlcompress
COPY models models
ENV PYTHONPATH=/srv/vlcompress PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER $user:$user
EXPOSE $port
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD $health
ENTRYPOINT $entrypoint
"""
)

KSERVE = Template(
    """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: $service
spec:
  predictor:
    minReplicas: 1
    terminationGracePeriodSeconds: 60
    securityContext:
      runAsNonRoot: true
      runAsUser: $user
    containers:
      - name: kserve-container
        image: $image
        ports:
          - containerPort: $port
            protocol: TCP
        env:
          - name: VLCOMPRESS_TOKEN
            valueFrom:
              secretKeyRef:
                name: $service-token
                key: token
                optional: true
        readinessProbe:
          httpGet:
            path: /v2/health/ready
            port: $port
          periodSeconds: 5
        startupProbe:
          httpGet:
            path: /v2/health/ready
            port: $port
          periodSeconds: 5
          failureThreshold: 60
        livenessProbe:
          httpGet:
            path: /v2/health/live
            port: $port
          periodSeconds: 10
        resources:
          requests:
            cpu: "1"
            memory: ${memory}Mi
          limits:
            memory: ${memory}Mi
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
"""
)


@dataclass(frozen=True)
class ContainerManifest:
    """The model's name, the image's, the port that it listens on, and pinned requirements."""

    name: str
    image: str
    port: int
    requirements: tuple[str, ...]


def export_container(run: Run) -> tuple[Path, ContainerManifest]:
    """Write the run's exported model as a build folder, ``docker/`` in the run's folder.

    Args:
        run: a run that was exported.

    Returns:
        The folder, and its manifest.

    Raises:
        VlcompressError: not exported yet, damaged, or a package that the server needs is not installed here.
    """
    if not (run.folder / "onnx" / "manifest.json").is_file():
        raise VlcompressError(f"run '{run.folder}' has no exported model: run `vlcompress export` first")
    folder = run.folder / "docker"
    return folder, write_context(run.folder / "onnx", folder, model_name(run), vocabulary=run.ticket / "vocab.txt")


def write_context(exported: Path, folder: Path, name: str, *, vocabulary: Path | None) -> ContainerManifest:
    """Write a build folder.

    Args:
        exported: the artefact that `export_onnx` wrote.
        folder: where; replaced if it exists.
        name: the model's name, of letters, digits and underscores.
        vocabulary: the words, for questions in words; None leaves them out.

    Raises:
        VlcompressError: see `export_container`.
    """
    family = load_manifest(exported).family
    service = name.replace("_", "-").lower()
    image = f"{service}:{file_sha256(exported / 'model.onnx')[:12]}"
    requirements = _requirements(REQUIREMENTS)
    memory = SERVER_MIB + COPIES * (size(exported / "model.onnx") >> 20)
    values = {"user": USER, "port": PORT, "service": service, "image": image, "memory": memory}
    commands = {"health": json.dumps(_health()), "entrypoint": json.dumps(_entrypoint(name))}
    with writing(folder) as temporary:
        write_file(temporary / "Dockerfile", DOCKERFILE.substitute(values, **commands))
        write_file(temporary / "kserve.yaml", KSERVE.substitute(values))
        write_file(temporary / "requirements.txt", "".join(f"{line}\n" for line in requirements))
        package = Path(vlcompress.__file__).parent
        shutil.copytree(package, temporary / "vlcompress", ignore=shutil.ignore_patterns(*LEFT_OUT))
        model = shutil.copytree(exported, temporary / "models" / name)
        if vocabulary is not None and vocabulary.is_file():
            shutil.copyfile(vocabulary, model / "vocab.txt")
        manifest = ContainerManifest(name, image, PORT, tuple(requirements))
        seal(temporary, "manifest.json", {**to_json(manifest), "family": family})
    return manifest


def _entrypoint(name: str) -> list[str]:
    program = ["python", "-c", "from vlcompress.cli.main import main; main()"]
    return [*program, "serve", f"{name}=models/{name}", "--host", "0.0.0.0", "--port", str(PORT)]


def _health() -> list[str]:
    url = f"http://127.0.0.1:{PORT}/v2/health/ready"
    return ["python", "-c", f"from urllib.request import urlopen; urlopen('{url}', timeout=2)"]


def _requirements(names: Sequence[str]) -> list[str]:
    """Pin packages to what is installed, local parts of a version (as in 2.13.0+cpu) left out."""
    found = []
    for name in names:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError as error:
            raise VlcompressError(f"the server needs {name}, which is not installed: pip install {name}") from error
    return found
