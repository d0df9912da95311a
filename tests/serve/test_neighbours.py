"""What others ask at the same moment changes no answer, for every exported cell in every precision."""

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serve.cells import CELLS, Cell
from tests.serve.conftest import client_of

LOWER = [
    ("lxmert", "vqa", "int8"),
    ("uniter", "nlvr2", "int8"),
    pytest.param("uniter", "vqa", "fp16", marks=pytest.mark.nightly),
]
ALWAYS = [("lxmert", "vqa"), ("uniter", "vcr")]
"""Cells of every run: plain rows and choices; pairs are there in int8."""
PRECISIONS = [
    *LOWER,
    *(pytest.param(*cell, "fp32", marks=() if cell in ALWAYS else pytest.mark.nightly) for cell in CELLS),
]
LOUD = 1000.0
"""What a stranger's features are multiplied by."""


def request(one: Cell, rng: np.random.Generator, *, loud: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Draw a request of random sizes: one answer's rows, or a few of them."""
    pair = 2 if one.task == "nlvr2" else 1
    text, regions = int(rng.integers(2, 8)), int(rng.integers(1, 6))
    seed = int(rng.integers(1 << 30))
    inputs = one.family.example_inputs(
        one.config, batch=pair * int(rng.integers(1, 4)), text=text, regions=regions, seed=seed
    )
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    names = {spec.name for spec in one.client.server.repository.loaded()[0].engine.inputs}
    for name in ("visual_feats", "pixel_values"):
        if loud and name in arrays:
            arrays[name] = arrays[name] * np.float32(LOUD)
    return {name: array for name, array in arrays.items() if name in names}


async def ask(client: httpx.AsyncClient, arrays: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    kinds = {"int64": "INT64", "float32": "FP32", "bool": "BOOL"}
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": kinds[str(array.dtype)], "data": array.ravel().tolist()}
        for name, array in arrays.items()
    ]
    found = await client.post("/v2/models/m/infer", json={"inputs": inputs})
    assert found.status_code == 200, found.text
    (output,) = found.json()["outputs"]
    return np.reshape(output["data"], output["shape"])


async def both(one: Cell, requests: list[dict[str, Any]]) -> tuple[list[Any], list[Any], int]:
    """Ask each alone, then all at once; tell how many executions the second took."""
    served = one.serve(batch_window_ms=30.0, queue_rows=1024)
    async with client_of(served.app) as client:
        alone = [await ask(client, arrays) for arrays in requests]
        stats = served.server.repository.loaded()[0].stats
        before = stats.execution_count
        together = await asyncio.gather(*(ask(client, arrays) for arrays in requests))
        return alone, list(together), stats.execution_count - before


@pytest.mark.parametrize(("family", "task", "precision"), PRECISIONS)
def test_an_answer_is_the_same_alone_and_among_strangers(cell: Any, family: str, task: str, precision: str) -> None:
    one: Cell = cell(family, task, precision)
    one.client.get("/v2")  # opens it
    rng = np.random.default_rng(7)
    requests = [request(one, rng, loud=index % 3 == 1) for index in range(18)]
    alone, together, executions = asyncio.run(both(one, requests))
    apart = precision == "int8" or task == "nlvr2"
    assert (executions == len(requests)) == apart, "what may share an execution does, and nothing else"
    for mine, shared in zip(alone, together, strict=True):
        assert mine.shape == shared.shape
        if apart:
            assert np.array_equal(mine, shared)
        else:
            assert np.abs(mine - shared).max() <= (2e-3 if precision == "fp16" else 1e-5) * np.abs(mine).max()
