"""Endpoints for people: what can be asked, questions in words, built-in pictures, the page."""

import asyncio
import time
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vlcompress.serve.body import read_body
from vlcompress.serve.decode import parse_object
from vlcompress.serve.demo import Demo
from vlcompress.serve.infer import note, require_loaded
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.record import record_of
from vlcompress.serve.refusal import Refusal, shown
from vlcompress.serve.routes_v2 import run_model, server_of
from vlcompress.serve.schemas import Answered, Overview, TaskRequest, checked
from vlcompress.serve.tasks.answering import AnsweringEndpoint
from vlcompress.serve.tasks.base import Logits, Prepared, TaskEndpoint, not_for_task
from vlcompress.serve.tasks.classification import ClassificationEndpoint, SentencesEndpoint
from vlcompress.serve.tasks.embeddings import EmbeddingsEndpoint
from vlcompress.serve.tasks.images import demo_picture
from vlcompress.serve.tasks.nlvr2 import Nlvr2Endpoint
from vlcompress.serve.tasks.refcoco import RefcocoEndpoint
from vlcompress.serve.tasks.retrieval import RetrievalEndpoint
from vlcompress.serve.tasks.vcr import VcrEndpoint
from vlcompress.serve.tensors import numpy_datatype

_ENDPOINTS: tuple[TaskEndpoint, ...] = (
    AnsweringEndpoint("vqa"),
    AnsweringEndpoint("gqa"),
    AnsweringEndpoint("snli_ve"),
    Nlvr2Endpoint(),
    VcrEndpoint(),
    RefcocoEndpoint(),
    RetrievalEndpoint(),
    EmbeddingsEndpoint(),
    ClassificationEndpoint(),
    SentencesEndpoint(),
)
TASKS: dict[str, TaskEndpoint] = {endpoint.name: endpoint for endpoint in _ENDPOINTS}


async def overview(request: Request) -> Response:
    """``GET /v1``: tasks, the models that do them, and built-in pictures with questions."""
    server = server_of(request)
    require_loaded(server)
    models = [
        (name, model, task.accepts(model)) for name, task in TASKS.items() for model in server.repository.loaded()
    ]
    rows = [_model_row(name, model, accepted) for name, model, accepted in models if accepted]
    demo = server.settings.demo
    with_pictures = demo is not None and any(row["accepts"].get("image") for row in rows)
    pictures = await asyncio.to_thread(lambda: _picture_rows(demo())) if demo and with_pictures else []
    return JSONResponse(Overview(tasks=sorted(TASKS), models=rows, pictures=pictures))


async def picture(request: Request) -> Response:
    """``GET /v1/pictures/{name}``: a JPEG."""
    demo, name = server_of(request).settings.demo, request.path_params["name"]
    found = await asyncio.to_thread(demo_picture, demo, name)
    return Response(found.jpeg, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})


async def ask(request: Request) -> Response:
    """``POST /v1/{task}``: one question, answered with labels and scores."""
    server = server_of(request)
    require_loaded(server)
    start = time.perf_counter()
    endpoint = _endpoint(request.path_params["task"])
    with server.budget.hold() as held:
        body = await read_body(request, server.body_limits, held)
        asked = checked(endpoint.request, parse_object(body))
        model = _chosen(request, endpoint, asked)
        note(record_of(request.scope), model)
        prepared = await asyncio.to_thread(endpoint.prepare, model, asked)
        encode_ms = (time.perf_counter() - start) * 1000
        model = _chosen(request, endpoint, asked)  # again: meanwhile the version may have been replaced
        with model.stats.counted(start):
            logits, queue_s, inference_s = await _scored(request, model, prepared)
    times = {
        "encode": encode_ms,
        "queue": queue_s * 1000,
        "inference": inference_s * 1000,
        "total": (time.perf_counter() - start) * 1000,
    }
    answers = endpoint.answers(model, prepared, logits, asked.top_k)
    found = Answered(
        task=endpoint.name,
        model=model.name,
        model_version=str(model.version),
        timing_ms={name: round(ms, 3) for name, ms in times.items()},
    )
    told = {"answers": answers} if isinstance(answers, list) else answers
    return JSONResponse({**found, **told, **prepared.facts})


async def _scored(request: Request, model: LoadedModel, prepared: Prepared) -> tuple[Logits, float, float]:
    """Run every batch; give the logits of all, and the seconds in the queue and in the model."""
    batches, logits, queue_s, inference_s = iter(prepared.batches), list[Logits](), 0.0, 0.0
    while (inputs := await asyncio.to_thread(next, batches, None)) is not None:
        datatypes = {name: numpy_datatype(array.dtype) for name, array in inputs.items()}
        answer = await run_model(request, model, inputs, datatypes)
        (found,) = answer.outputs.values()
        logits.append(np.asarray(found, np.float64))
        queue_s, inference_s = queue_s + answer.queue_s, inference_s + answer.inference_s
    return np.concatenate(logits), queue_s, inference_s


def _endpoint(task: str) -> TaskEndpoint:
    if task not in TASKS:
        raise Refusal(404, f"unknown task '{shown(task)}': allowed are {', '.join(sorted(TASKS))}", "not_found")
    return TASKS[task]


def _chosen(request: Request, endpoint: TaskEndpoint, asked: TaskRequest) -> LoadedModel:
    """Choose the model that the request names, or the first one that does the task."""
    repository = server_of(request).repository
    name, version = asked.model, asked.version
    if name is None:
        able = [model for model in repository.loaded() if endpoint.accepts(model)]
        if not able:
            raise Refusal(404, f"no model on this server does task '{endpoint.name}'", "not_found")
        name = able[0].name
    model = repository.get(name, None if version is None else str(version))
    if not endpoint.accepts(model):
        raise not_for_task(model, endpoint.name)
    return model


def _model_row(task: str, model: LoadedModel, accepted: dict[str, bool]) -> dict[str, Any]:
    return {
        "task": task,
        "name": model.name,
        "version": str(model.version),
        "backend": model.engine.backend,
        "provider": model.engine.provider,
        "labels": len(model.labels),
        "accepts": accepted,
        **model.facts,
    }


def _picture_rows(demo: Demo) -> list[dict[str, Any]]:
    """List the built-in pictures, with what annotators answered most often to their questions."""
    return [
        {
            "name": name,
            "questions": [
                {"question": question.sentence, "people": question.majority}
                for question in demo.picture(name).questions
            ],
        }
        for name in demo.names
    ]
