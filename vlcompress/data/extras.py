"""Packages that only some formats need (the extra "data" of this package)."""

import importlib
from typing import Any

from vlcompress.errors import VlcompressError


def extra(module: str) -> Any:
    """Import a module of the extra "data".

    Raises:
        VlcompressError: it is not installed; the fix is named.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise VlcompressError(
            f"this format needs the package '{module.partition('.')[0]}', which is not installed: "
            "pip install 'vlcompress[data]'"
        ) from error
