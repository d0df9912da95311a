"""A checkout without symbolic links builds whole, and what is installed from it works with no source tree beside it."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from vlcompress.errors import EXTRAS
from vlcompress.export.container import REQUIREMENTS

ROOT = Path(__file__).parents[1]
PACKAGES = {"vlcompress": "vlcompress", "cli": "vlcompress/cli", "kernels": "vlcompress/kernels"}
CARRIED = (
    *PACKAGES, "tests", "bench", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt",
    "pyproject.toml", "setup.py", "MANIFEST.in",
)  # fmt: skip
"""What a source archive holds."""
BUILD = "import setuptools.build_meta as backend, sys; getattr(backend, 'build_' + sys.argv[1])(sys.argv[2])"
CACHES = shutil.ignore_patterns("__pycache__", "*.py[cod]")


def called(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Run Python and return what it prints, with only `path` to find this project in."""
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the source archive of a checkout without links, and with the wheel that the archive makes."""
    home = tmp_path_factory.mktemp("build")
    for name in CARRIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, home / "tree" / name, symlinks=True, ignore=CACHES)
        else:
            (home / "tree").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, home / "tree" / name)
    for name in ("cli", "kernels"):
        (home / "tree/vlcompress" / name).unlink(missing_ok=True)
        (home / "tree/vlcompress" / name).write_text(f"../{name}")
    called("-c", BUILD, "sdist", str(home), cwd=home / "tree")
    with tarfile.open(next(home.glob("*.tar.gz"))) as archive:
        archive.extractall(home / "source", filter="data")
    called("-c", BUILD, "wheel", str(home), cwd=next((home / "source").iterdir()))
    return home


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    wheel = next(built.glob("*.whl"))
    called("-m", "pip", "install", "-q", "--no-deps", "--target", str(built / "site"), str(wheel), cwd=built)
    return built / "site"


def test_the_source_archive_holds_what_its_tests_need(built: Path) -> None:
    source = next((built / "source").iterdir())
    carried = {name for name in files(ROOT) if name.split("/")[0] in CARRIED and "egg-info" not in name}
    assert carried <= files(source)


def test_the_wheel_holds_the_packages_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {f"{inside}/{name}" for folder, inside in PACKAGES.items() for name in files(ROOT / folder)}


def test_the_description_leads_nowhere_into_the_tree(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        text = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    assert "<!-- ci: run -->" in text
    assert not re.search(r"<img|!\[", text)
    assert {link for link in re.findall(r"\]\(([^)]*)\)", text) if not link.startswith("https://")} == set()


def test_an_editable_install_without_links_says_how_to_get_them(built: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "editable", str(built / "editable")],
        cwd=built / "tree", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: an editable install follows the symbolic links")


@pytest.mark.nightly
def test_an_installed_wheel_prunes_compiles_and_exports(installed: Path, tmp_path: Path) -> None:
    where = called("-c", "import vlcompress.cli.main as m; print(m.__file__)", cwd=tmp_path, path=installed)
    assert Path(where.strip()) == installed / "vlcompress/cli/main.py"
    tool = ("-m", "vlcompress")
    assert called(*tool, "--help", cwd=tmp_path, path=installed).startswith("Usage: vlcompress ")
    tiny = ("prune", "--model", "lxmert", "--task", "vqa", "--size", "tiny", "--rounds", "1", "--steps", "2")
    called(*tool, *tiny, cwd=tmp_path, path=installed)
    called(*tool, "compile", cwd=tmp_path, path=installed)
    called(*tool, "export", "--format", "onnx", cwd=tmp_path, path=installed)
    assert len(list(tmp_path.glob("runs/*/onnx/model.onnx"))) == 1


def declared(extra: str | None = None) -> set[str]:
    """Names of the packages that pyproject.toml lists for an extra, or for the project itself, extras in it opened."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found = set[str]()
    for line in lines:
        name, inner = re.match(r"([\w.-]+)(?:\[(\w+)\])?", line).groups()  # type: ignore[union-attr]
        found |= declared(inner) if name == "vlcompress" else {name}
    return found


def test_a_server_needs_no_torch_and_an_image_holds_just_what_it_needs() -> None:
    needed = declared() | declared("serve")
    assert not needed & {"torch", "transformers", "safetensors", "matplotlib"}
    assert set(REQUIREMENTS) == needed - {"rich"}, "rich draws tables and progress, which a server has none of"


def test_a_missing_package_is_told_with_its_extra() -> None:
    for extra, named in zip(("cpu", "serve"), EXTRAS, strict=True):
        assert named.startswith(f"'vlcompress[{extra}]'")
        modules = {name.replace("-", "_") for name in declared(extra)}
        assert set(EXTRAS[named]) <= modules


@pytest.mark.parametrize("command", ["prune", "export", "verify", "tasks", "serve --backend torch x"])
def test_without_torch_a_command_says_in_one_line_what_to_install(command: str, tmp_path: Path) -> None:
    without = "import sys; sys.modules['torch'] = None; from vlcompress.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, *command.split()],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    says = "error: this needs the package 'torch', which is not installed: pip install 'vlcompress[cpu]' (or [gpu])\n"
    assert done.stderr == says
