"""Our server beside NVIDIA's on the same requests. Without NVIDIA's, its recorded statuses are held."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.live import differential
from tests.serve.live.differential import DELIBERATE, Answer, Request, ask, cases, differences
from tests.serve.live.differential_grpc import CallAnswer, call, call_cases, call_differences
from tests.serve.live.triton_reference import VARIABLE, installed, triton_server
from vlcompress.bench.served import Served
from vlcompress.export.model_repository import write_model
from vlcompress.sparse.timing import Effort

MODEL, MAX_BATCH = "lxmert_vqa", 8
RECORD = Path(differential.__file__).with_name("triton_answers.json")
"""Status of NVIDIA's tritonserver 2.51.0 for every case; `bench/serving_differential.py` writes it."""


def arrays() -> dict[str, Any]:
    """Draw two rows that the tiny model answers."""
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1, 40, (2, 6)),
        "attention_mask": np.ones((2, 6), np.int64),
        "visual_feats": rng.standard_normal((2, 5, 16), dtype=np.float32),
        "visual_pos": rng.random((2, 5, 4), dtype=np.float32),
    }


def requests() -> dict[str, Request]:
    return cases(MODEL, arrays(), MAX_BATCH)


@pytest.mark.parametrize("case", requests())
def test_status_is_the_recorded_one_of_the_reference(live_server: Served, case: str) -> None:
    theirs = json.loads(RECORD.read_text())["statuses"][case]
    assert theirs == DELIBERATE.get(case, (theirs,))[0]
    ours = ask(live_server.url, requests()[case])
    assert differences(case, Answer(theirs, None, ours.tensors), ours) == []


@pytest.mark.parametrize("case", call_cases(MODEL, arrays(), MAX_BATCH))
def test_status_of_a_call_is_the_recorded_one_of_the_reference(live_server: Served, case: str) -> None:
    method, message = call_cases(MODEL, arrays(), MAX_BATCH)[case]
    ours = call(live_server.grpc, method, message)
    theirs = CallAnswer(json.loads(RECORD.read_text())["calls"][case], "", ours.tensors)
    assert call_differences(theirs, ours) == []


@pytest.mark.triton_server
@pytest.mark.skipif(installed() is None, reason=f"{VARIABLE} names no environment with nvidia-pytriton")
def test_the_real_server_answers_alike(live_server: Served, exported: Path, tmp_path: Path) -> None:
    """It runs the exported repository as it is, and gives the same statuses, tensors and classes."""
    quick = Effort(rounds=1, burst_s=0.0, warmup=0)
    write_model(exported, tmp_path / MODEL, batch=MAX_BATCH, threads=1, target_ort="1.27", effort=quick)
    venv = installed()
    assert venv is not None
    with triton_server(venv, tmp_path) as reference:
        pairs = {name: (ask(reference.url, one), ask(live_server.url, one)) for name, one in requests().items()}
        asked = call_cases(MODEL, arrays(), MAX_BATCH).items()
        calls = {name: (call(reference.grpc, *one), call(live_server.grpc, *one)) for name, one in asked}
        warmed = ask(reference.url, Request("GET", f"/models/{MODEL}/stats")).content["model_stats"][0]
    found = {name: differences(name, theirs, ours) for name, (theirs, ours) in pairs.items()}
    found |= {f"gRPC: {name}": call_differences(*pair) for name, pair in calls.items()}
    assert {name: texts for name, texts in found.items() if texts} == {}
    assert {1, MAX_BATCH} <= {entry["batch_size"] for entry in warmed["batch_stats"]}


def test_a_planted_difference_is_found() -> None:
    tensors = {"logits": np.zeros((1, 2))}
    right = Answer(200, {}, tensors)
    assert differences("json", right, right) == []
    assert differences("json", right, Answer(200, {}, {"logits": np.ones((1, 2))})) != []
    assert differences("json", right, Answer(200, {}, {"scores": np.zeros((1, 2))})) != []
    assert differences("json", right, Answer(400, {"error": "x"}, {})) != []
    assert differences("bad json", Answer(500, None, {}), Answer(500, {"error": "x"}, {})) != []
    assert differences("unknown model", Answer(404, None, {}), Answer(404, {"detail": "x"}, {})) != []
    classes = [Answer(200, {}, {"logits": np.array([[text]])}) for text in ("0.50:1:yes", "0.500001:1:yes", "0.5:2:no")]
    assert differences("classification", classes[0], classes[1]) == []
    assert differences("classification", classes[0], classes[2]) != []
