"""The promises that the layout makes: imports point downwards, and nothing shadows another package."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pytest

from vlcompress import recipe

ROOT = Path(__file__).parents[1]

LAYERS = (
    "errors", "clusters", "devices", "artefacts", "results", "kernels", "data", "models", "tasks", "pruning",
    "training", "recipe", "tickets", "sparse", "export", "api", "bench", "report", "serve", "studies", "cli",
)  # fmt: skip
"""From the bottom up; a module may import from its own layer and from those before it."""

MODULES = sorted(path for folder in ("vlcompress", "cli", "kernels") for path in (ROOT / folder).rglob("*.py"))


def layer(module: str) -> int | None:
    """Return the layer of ``vlcompress.LAYER...``; None for anything else, and for the package itself."""
    parts = module.split(".")
    return LAYERS.index(parts[1]) if parts[0] == "vlcompress" and len(parts) > 1 and parts[1] in LAYERS else None


@cache
def imported(path: Path) -> set[str]:
    """Read what a file imports anywhere, in its functions too."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def reached(module: str) -> Iterator[str]:
    """Walk all modules of the package that a module imports, directly or through others."""
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name not in seen and name.startswith("vlcompress.") and path.is_file():
            seen.add(name)
            waiting += imported(path)
    yield from seen


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    here = layer(name if name.startswith("vlcompress") else f"vlcompress.{name}")
    if here is not None:
        above = [name for name in imported(path) if (layer(name) or 0) > here]
        assert not above, f"imports from a layer above: {above}"


def test_only_their_own_commands_reach_the_studies() -> None:
    """The product stands without them; `report` shows those that lie in the same folder of runs."""
    commands = [path.stem for path in (ROOT / "cli").glob("*.py") if path.stem != "main"]
    reaching = {name for name in commands if any(".studies." in one for one in reached(f"vlcompress.cli.{name}"))}
    assert reaching == {"study", "report"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_and_cli_are_imported_through_the_package(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"kernels", "cli"}, "import vlcompress.kernels and vlcompress.cli, never kernels or cli"


@pytest.mark.parametrize("name", ["kernels", "cli"])
def test_kernels_and_cli_are_those_at_the_root_without_an_init_file(name: str) -> None:
    """A source archive has no links: there, setup.py maps the names."""
    link = ROOT / "vlcompress" / name
    assert not link.exists() or (link.is_symlink() and link.samefile(ROOT / name))
    assert not (ROOT / name / "__init__.py").exists(), f"a root package '{name}' shadows others of that name"


def test_kernels_import_torch_and_triton_only() -> None:
    for path in (ROOT / "kernels").glob("*.py"):
        ours = {name for name in imported(path) if name.startswith("vlcompress") and ".kernels" not in name}
        assert not ours, f"{path.name} imports {ours}"


SECTIONS = [get_type_hints(kind, include_extras=True) for kind in get_type_hints(recipe.Recipe).values()]
RULES = [rule for fields in SECTIONS for kind in fields.values() for rule in getattr(kind, "__metadata__", ())]
PARSERS = {"of_weights", *(rule.read.__name__ for rule in RULES if isinstance(rule, recipe.Parsed))}
READERS = {
    "recipe.py": "a recipe's file or table is read",
    "pruning/patterns.py": "a mixture's parts are read",
    "pruning/growth.py": "the sizes of `growth` are read",
    "training/pruner.py": "the names that a `Pruner` is given are read",
    "cli/options.py": "`--micro-batch` of a command without a recipe is read",
    "bench/random_masks.py": "the `--block` of `speed` is read, where there is no recipe",
}
"""Where text of a recipe becomes a value, and why there: everywhere else the value is passed on."""


def test_what_a_recipe_says_is_read_once() -> None:
    calls = {
        str(path.relative_to(ROOT)).removeprefix("vlcompress/")
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.Attribute) and getattr(node, "id", getattr(node, "attr", "")) in PARSERS
    }
    assert calls == READERS.keys()
