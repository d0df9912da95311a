"""Scaling out: the same app on Ray Serve, as replicas that each hold the models and a queue of their own.

Ray runs any code for whoever reaches its ports, so its token authentication is switched on, its dashboard and its usage
reports off, and everything listens on the loopback. Replicas, proxy and restarts after a crash are Ray's.
"""

import logging
import os
import secrets
import signal
import threading
from dataclasses import replace
from typing import Any

from vlcompress.errors import VlcompressError
from vlcompress.serve.settings import Settings

logger = logging.getLogger(__name__)

APPLICATION = "vlcompress"
SAFE = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment of everything that Ray starts."""


def run_ray(settings: Settings, replicas: int) -> None:
    """Serve on `replicas` replicas until SIGTERM or SIGINT; then drain and stop.

    Args:
        settings: of every replica; host and port are the proxy's.
        replicas: processes that hold the models.

    Raises:
        VlcompressError: Ray Serve is not installed, fewer than one replica, or a host that is not the loopback.
    """
    if replicas < 1:
        raise VlcompressError(f"{replicas} replicas cannot serve anything: give --replicas 1 or more")
    if settings.host not in ("127.0.0.1", "localhost"):
        raise VlcompressError(
            f"host '{settings.host}': Ray Serve is started on the loopback only, since Ray's own ports open beside it; "
            "put a proxy in front, or start a Ray cluster of your own and deploy vlcompress.serve.ray.application there"
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    start(settings, replicas)
    logger.info("ready: %d replicas at http://%s:%d", replicas, settings.host, settings.port)
    stop.wait()
    shutdown()


def start(settings: Settings, replicas: int) -> None:
    """Start Ray on this machine and deploy; returns when every replica is ready.

    Raises:
        VlcompressError: Ray Serve is not installed.
    """
    os.environ.update(SAFE)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # read when Ray is first imported
    ray, serve = _import_ray()
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level="warning",
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(application(settings, replicas), name=APPLICATION, route_prefix="/")


def application(settings: Settings, replicas: int) -> Any:
    """Describe the deployment, for `ray.serve.run` on any cluster whose machines have the models' folders.

    The app is built in the replica, from settings alone. Ray's own limit is above the app's queue, so that a full
    server answers as it does on its own: 503, JSON, Retry-After.
    """
    _, serve = _import_ray()
    local = replace(settings, drain_seconds=0.0)  # Ray takes a replica out of its routes before it stops it

    def build() -> Any:
        from vlcompress.serve.app import create_app

        return create_app(local)

    deployment = serve.deployment(
        serve.ingress(build)(),
        name="Replica",
        num_replicas=replicas,
        max_ongoing_requests=2 * settings.queue_rows,
        graceful_shutdown_timeout_s=settings.stop_seconds,
        ray_actor_options={"num_cpus": 0},  # threads are the settings' matter; Ray must not refuse a small machine
    )
    return deployment.bind()


def shutdown() -> None:
    """Let requests in flight end, then stop the replicas and Ray."""
    ray, serve = _import_ray()
    serve.shutdown()
    ray.shutdown()


def _import_ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise VlcompressError("Ray Serve is not installed: pip install 'vlcompress[ray]'") from error
    return ray, serve
