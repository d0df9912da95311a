"""What transformers knows of this package once it is imported: registered when transformers loads its registries.

So ``import vlcompress`` stays as light as it is, and nothing here is loaded by who does not use transformers.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

REGISTRIES = {
    "transformers.models.auto.configuration_auto": "vlcompress.models.uniter.config",
    "transformers.models.auto.modeling_auto": "vlcompress.models.uniter.heads",
    "transformers.quantizers.auto": "vlcompress.sparse.quantizer",
}
"""The modules with transformers' registries, and those here that register themselves there when they are imported."""


class _Registers(MetaPathFinder):
    """Finds the registries as Python does, and has what belongs in one imported right after it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a registry; None for every other module."""
        spec = PathFinder.find_spec(name, path, target) if name in REGISTRIES else None
        loader: Any = spec and spec.loader
        if loader is None:
            return None
        load = loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            importlib.import_module(REGISTRIES[name])

        loader.exec_module = load_and_register
        return spec


def register() -> None:
    """Register now where transformers has loaded its registries, else as soon as it does."""
    sys.meta_path.insert(0, _Registers())
    for registry, ours in REGISTRIES.items():
        if registry in sys.modules:
            importlib.import_module(ours)
