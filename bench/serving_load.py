"""Overload, over HTTP and gRPC: 30 s at twice the capacity. What is accepted is in time, the rest refused at once.

    python -m bench.serving_load RUN [--rows 8] [--seconds 30] [--deadline-ms 500] [--out FILE]

Open loop, Poisson arrivals from a seed, one client process on the same machine. The capacity is what a closed loop of
16 requests in flight gets; the peak is the best of that and of the loads at 0.8, 1 and 1.2 times the capacity.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.records import write_record
from bench.serving import GrpcClient, RawClient, RunModel, binary_request, grpc_request, resident_mb
from vlcompress.bench.load import Send, arrivals, offer, saturate, summarise
from vlcompress.bench.served import served

PAYLOADS, CONCURRENCY = 32, 16
SHARES, SHARE_SECONDS = (0.8, 1.0, 1.2), 8.0


async def measure(client: Any, requests: list[bytes], seconds: float) -> dict[str, Any]:
    """Find the capacity and the peak, then overload."""
    send: Send = lambda index: client.ask(requests[index % len(requests)])  # noqa: E731
    await saturate(send, CONCURRENCY, 2.0)
    capacity = await saturate(send, CONCURRENCY, 5.0)
    shares = {}
    for share in SHARES:
        due = arrivals(share * capacity, SHARE_SECONDS, seed=int(100 * share))
        shares[str(share)] = asdict(summarise([await offer(send, due)], SHARE_SECONDS))
    overload = summarise([await offer(send, arrivals(2 * capacity, seconds, seed=1))], seconds)
    again = await offer(send, arrivals(0.5 * capacity, 3.0, seed=2))
    await client.close()
    peak = max(round(capacity, 2), *(found["good_per_s"] for found in shares.values()))
    return {
        "capacity_per_s": round(capacity, 1),
        "shares": shares,
        "peak_per_s": peak,
        "overload": asdict(overload),
        "goodput_of_peak": round(overload.good_per_s / peak, 4),
        "afterwards_at_half_capacity": asdict(summarise([again], 3.0)),
    }


async def _measure(
    client: Callable[[str], Any], url: str, write: Callable[..., bytes], model: RunModel, arguments: argparse.Namespace
) -> dict[str, Any]:
    requests = [write(model, "model", seed, arguments.rows) for seed in range(PAYLOADS)]
    return await measure(client(url), requests, arguments.seconds)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--deadline-ms", type=float, default=500.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = RunModel(arguments.run)
    options = ["--deadline", str(arguments.deadline_ms), "--log-level", "error", "--threads", "1", "--sessions", "1"]
    with served({"model": model.folder}, options, over_grpc=True) as server:
        found: dict[str, Any] = {
            "http": asyncio.run(_measure(RawClient, server.url, binary_request, model, arguments)),
            "grpc": asyncio.run(_measure(GrpcClient, server.grpc, grpc_request, model, arguments)),
            "resident_mb": round(resident_mb(server.pid), 1),
        }
    given = {"rows": arguments.rows, "seconds": arguments.seconds, "deadline_ms": arguments.deadline_ms}
    write_record("python -m bench.serving_load", {**given, "options": options, **found}, arguments.out)


if __name__ == "__main__":
    main()
