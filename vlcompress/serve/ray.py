"""Scaling out: the same app on Ray Serve, as replicas that each hold the models and a queue of their own.

Requests come in on the loopback only; what Ray itself listens on asks for a token (`vlcompress.clusters`). Replicas,
proxy and restarts after a crash are Ray's.
"""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vlcompress.clusters import guard, import_ray, start_local
from vlcompress.errors import VlcompressError
from vlcompress.serve.settings import Settings

APPLICATION = "vlcompress"
PATIENT = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
"""Ray kills a proxy that is not up within 5 s, three times, which a busy machine never passes; the user's own wins."""


def run_ray(settings: Settings, replicas: int, announce: Callable[[dict[str, Any], str], None]) -> None:
    """Serve on `replicas` replicas until SIGTERM or SIGINT; then drain and stop.

    Args:
        settings: of every replica; host and port are the proxy's.
        replicas: processes that hold the models.
        announce: told what is served, as a document and as text, once it is ready.

    Raises:
        VlcompressError: Ray Serve is not installed, fewer than one replica, or a host that is not the loopback.
    """
    if replicas < 1:
        raise VlcompressError(f"{replicas} replicas cannot serve anything: give --replicas 1 or more")
    if settings.host not in ("127.0.0.1", "localhost"):
        raise VlcompressError(
            f"host '{settings.host}': with --engine ray the server listens on 127.0.0.1 only; put a proxy in front "
            "of it, or deploy vlcompress.serve.ray.application on a Ray cluster of your own"
        )
    stop = threading.Event()
    start(settings, replicas)
    for number in (signal.SIGTERM, signal.SIGINT):  # only now: Ray sets handlers of its own when it starts
        signal.signal(number, lambda *_: stop.set())
    document = {"url": f"http://{settings.host}:{settings.port}", "engine": "ray", "replicas": replicas}
    announce(document, f"serving on {document['url']} with {replicas} replica(s) on Ray Serve")
    stop.wait()
    shutdown()


def start(settings: Settings, replicas: int) -> None:
    """Start Ray on this machine and deploy; returns when every replica is ready.

    Raises:
        VlcompressError: Ray Serve is not installed.
    """
    guard()
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    ray, serve = _import_ray()  # reads the environment
    start_local(ray)
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

        replica = serve.get_replica_context().replica_tag
        return create_app(replace(local, replica=replica))

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
    return import_ray("ray", "Ray Serve"), import_ray("ray.serve", "Ray Serve")
