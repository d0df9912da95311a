"""A static bearer token, over gRPC too; health checks, the page's shell and the API's description need none."""

import hmac

from vlcompress.serve.refusal import Refusal

GRPC, GRPC_HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
"""Services that are called over gRPC; their methods' paths follow them."""

OPEN_PATHS = frozenset({"/", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
OPEN_CALLS = frozenset({f"/{GRPC}/ServerLive", f"/{GRPC}/ServerReady", f"/{GRPC_HEALTH}/Check"})


def check_token(path: str, header: str, token: str | None) -> None:
    """Check an Authorization header, in a time that does not depend on how much of it is right.

    Args:
        path: of the request.
        header: value of Authorization; "" for none.
        token: what is expected; None lets everyone in.

    Raises:
        Refusal: 401.
    """
    if token is None or path in OPEN_PATHS | OPEN_CALLS:
        return
    scheme, _, given = header.partition(" ")
    right = hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())
    if not (right and scheme.lower() == "bearer"):
        text = "a valid token is needed: send 'Authorization: Bearer TOKEN'"
        raise Refusal(401, text, "unauthorized", {"WWW-Authenticate": "Bearer"})
