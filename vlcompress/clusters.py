"""Ray: found or asked for in one line, and started on this machine so that nobody else can use it.

Ray's own ports listen on every interface, whatever address it is given, and Ray runs any code for whoever may talk to
it: so a Ray that is started here has its token authentication switched on, its dashboard and its usage reports off.
"""

import importlib
import os
import secrets
from typing import Any

from vlcompress.errors import VlcompressError

SAFE = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment of everything that Ray starts here; nothing overrides it."""
ADDRESS = "RAY_ADDRESS"
"""Where Ray's own variable names a cluster, that is joined as it is."""


def import_ray(module: str, title: str) -> Any:
    """Import a module of Ray.

    Raises:
        VlcompressError: `title` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VlcompressError(f"{title} is not installed: pip install 'vlcompress[ray]'") from error


def guard() -> None:
    """Prepare the environment of a Ray that this process starts; call it before Ray is imported."""
    os.environ.update(SAFE)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_local(ray: Any) -> None:
    """Start Ray on this machine."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="warning")


def join(ray: Any) -> None:
    """Join the cluster that the environment names.

    Raises:
        VlcompressError: it does not answer.
    """
    try:
        ray.init(log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        where, why = os.environ[ADDRESS], str(error).partition("\n")[0]
        raise VlcompressError(f"no Ray cluster at {ADDRESS} '{where}' ({why}): start it, or unset {ADDRESS}") from error
