"""One inference request, whatever protocol it came by: refuse early, decode, check, queue, and wait."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from vlcompress.serve.batcher import Answer
from vlcompress.serve.checks import check_inputs
from vlcompress.serve.decode import DecodedRequest
from vlcompress.serve.encode import SentOutput, sent_outputs, wanted_outputs
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.record import Record
from vlcompress.serve.refusal import busy
from vlcompress.serve.schemas import ModelMetadata, Tensor
from vlcompress.serve.server import Server
from vlcompress.serve.tensors import Arrays, TensorSpec

Wait = Callable[["asyncio.Future[Answer]"], Awaitable[Answer]]
"""Waits for an answer for as long as the client does."""


@dataclass(frozen=True)
class Inferred:
    """What is sent back.

    Attributes:
        id: the request's; "" for none.
        outputs: in the order to be sent.
    """

    id: str
    outputs: list[SentOutput]


async def infer(
    server: Server, record: Record, model: LoadedModel, decode: Callable[[], DecodedRequest], wait: Wait
) -> Inferred:
    """Answer a request for a model's outputs.

    Args:
        server: that it came to.
        record: of the request.
        model: to be run.
        decode: reads the request; not called while the queue is full, so that refusing stays cheap when it is.
        wait: waits for the answer.

    Raises:
        Refusal: 400, 499, 500 or 503.
    """
    if model.batcher.refuses(record.client):
        raise model.batcher.refusal()
    asked = decode()
    wanted = wanted_outputs(model.engine.outputs, asked.outputs, asked.binary)
    answer = await run_model(server, record, model, asked.inputs, asked.datatypes, wait, asked.timeout_us)
    return Inferred(asked.id, sent_outputs(wanted, answer.outputs, model.engine.outputs, model.labels))


async def run_model(
    server: Server,
    record: Record,
    model: LoadedModel,
    inputs: Arrays,
    datatypes: Mapping[str, str],
    wait: Wait,
    timeout_us: int | None = None,
) -> Answer:
    """Check tensors, queue them, and wait for the answer.

    Args:
        server: that the request came to.
        record: of the request.
        model: to be run.
        inputs: its inputs.
        datatypes: what the request says that they are.
        wait: waits for the answer.
        timeout_us: the request's own deadline, if it has one; it can only shorten the server's.

    Raises:
        Refusal: 400, 499, 500 or 503.
    """
    sizes = check_inputs(model.engine.inputs, inputs, datatypes, model.limits)
    record.rows = len(next(iter(inputs.values()))) if model.engine.inputs[0].batched else 1
    allowed_s = server.settings.deadline_ms / 1000
    if timeout_us is not None:
        allowed_s = min(allowed_s, timeout_us / 1e6)
    deadline = asyncio.get_running_loop().time() + allowed_s
    answer = await wait(model.batcher.submit(inputs, sizes, record.rows, deadline, record.client))
    record.queue_ms = round(answer.queue_s * 1000, 3)
    record.inference_ms = round(answer.inference_s * 1000, 3)
    return answer


def model_of(server: Server, name: str, version: str | None) -> LoadedModel:
    """Look up a model that a request names.

    Raises:
        Refusal: 404 no such model or version, 503 while models are loaded.
    """
    require_loaded(server)
    return server.repository.get(name, version)


def require_loaded(server: Server) -> None:
    """Refuse requests until the models are loaded.

    Raises:
        Refusal: 503.
    """
    if not server.loaded:
        raise busy("the server is loading its models", "loading")


def note(record: Record, model: LoadedModel) -> None:
    """Put the model on the request's record."""
    record.model, record.version, record.metrics = model.name, str(model.version), model.metrics


def metadata_of(server: Server, model: LoadedModel) -> ModelMetadata:
    """Describe a model: its versions, inputs and outputs."""
    return ModelMetadata(
        name=model.name,
        versions=[str(version) for version in server.repository.versions(model.name)],
        platform=model.engine.platform,
        inputs=[_tensor(spec) for spec in model.engine.inputs],
        outputs=[_tensor(spec) for spec in model.engine.outputs],
    )


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(name=spec.name, datatype=spec.datatype, shape=spec.public_shape)
