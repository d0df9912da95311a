"""Encoders of transformers served in words: what their folder says is enough, and answers are the model's own."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.cells import NAMES, WORDS, picture, sigmoid, softmax
from vlcompress.data.pixels import framed
from vlcompress.models.base import Sample
from vlcompress.serve.preprocessing import Preprocessing, Text
from vlcompress.serve.tasks.images import decoded
from vlcompress.serve.tensors import TensorSpec

TEXT, CAPTIONS = "a red circle", ["a blue square", "two stars"]


def seen(one: Any, text: str, *names: str) -> Sample:
    """Make what training reads of a text and built-in pictures."""
    (ids_T,) = WORDS.encode([text], one.config.get("max_position_embeddings", 24))
    said = one.config["picture"]
    pixels = [np.asarray(decoded(picture(name).jpeg)[0]) for name in names]
    cut = [framed(one, said["height"], said["width"], crop=said["crop"], resample=said["resample"]) for one in pixels]
    return Sample(ids_T, np.zeros_like(ids_T), tuple(cut))


def vectors(one: Any, *samples: Sample) -> Any:
    found = one.logits(*samples)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def scores(answer: Any) -> dict[str, float]:
    return {one["label"]: one["score"] for one in answer["answers"]}


def test_a_question_is_answered_as_the_model_does(cell: Any) -> None:
    one = cell("encoder", "vqa")
    expected = sigmoid(one.logits(seen(one, TEXT, NAMES[0]))[0])
    found = scores(one.post(question=TEXT, picture=NAMES[0]))
    assert [found[label] for label in ("red", "blue", "no")] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_picture_is_classified_as_the_model_does(cell: Any) -> None:
    one = cell("encoder", "classification")
    expected = softmax(one.logits(seen(one, "", NAMES[1]))[0])
    found = scores(one.post(image=base64.b64encode(picture(NAMES[1]).jpeg).decode()))
    assert [found[label] for label in ("circle", "square", "star")] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_sentence_is_classified_as_the_model_does(cell: Any) -> None:
    one = cell("encoder", "sentences")
    expected = softmax(one.logits(Sample(*[WORDS.encode([TEXT])[0]] * 2, ()))[0])
    found = one.post(text=TEXT)
    assert [scores(found)[label] for label in ("one", "two", "many")] == pytest.approx(expected.tolist(), abs=1e-4)
    assert one.post(text=" ") == (400, "'text' of request is missing: give some text: at most 2000 characters")
    assert one.post(text=f"{TEXT} zzz" + " red" * 30)["question_cut"]


def test_a_text_and_an_image_are_embedded_as_the_model_does(cell: Any) -> None:
    client, one = cell("encoder", "retrieval").client, cell("encoder", "retrieval")
    text, image = vectors(one, seen(one, TEXT, NAMES[0]))[0]
    found = client.post("/v1/embeddings", json={"text": TEXT}).json()
    assert found["embedding"] == pytest.approx(text.tolist(), abs=1e-4)
    assert found["unknown_words"] == []
    found = client.post("/v1/embeddings", json={"image": {"picture": NAMES[0]}}).json()
    assert found["embedding"] == pytest.approx(image.tolist(), abs=1e-4)
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1.0, abs=1e-6)
    refused = client.post("/v1/embeddings", json={"text": TEXT, "image": {"picture": NAMES[0]}})
    assert refused.json()["error"] == "give either text, or image"
    listed = {row["task"]: row["accepts"] for row in client.get("/v1").json()["models"]}
    assert listed == {
        "embeddings": {"features": False, "image": True, "text": True},
        "retrieval": {"features": False, "image": True},
    }
    pairs = cell("uniter", "retrieval").client.post("/v1/embeddings", json={"text": TEXT})
    assert (pairs.status_code, pairs.json()["error"]) == (404, "no model on this server does task 'embeddings'")


def test_the_index_is_searched_by_the_cosine_of_embeddings(cell: Any, tmp_path: Path) -> None:
    for name in NAMES[:3]:
        (tmp_path / f"{name}.jpg").write_bytes(picture(name).jpeg)
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    one = cell("encoder", "retrieval")
    client = one.serve(index=tmp_path)
    found = scores(client.post("/v1/retrieval", json={"text": TEXT}).json())
    expected = [float(pair[0] @ pair[1]) for pair in vectors(one, *(seen(one, TEXT, name) for name in NAMES[:3]))]
    assert [found[f"{name}.jpg"] for name in NAMES[:3]] == pytest.approx(expected, abs=1e-4)
    found = scores(client.post("/v1/retrieval", json={"image": {"picture": NAMES[0]}}).json())
    expected = [float(pair[0] @ pair[1]) for pair in vectors(one, *(seen(one, text, NAMES[0]) for text in CAPTIONS))]
    assert [found[text] for text in CAPTIONS] == pytest.approx(expected, abs=1e-4)


def test_a_models_own_tokenizer_is_read_where_there_is_no_vocabulary(cell: Any, tmp_path: Path) -> None:
    one = cell("encoder", "sentences")
    for name in ("model.onnx", "preprocessing.json", "tokenizer.json", "labels.txt", "config.json"):
        shutil.copy(one.folder / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "family": "encoder", "task": "sentences"}))
    found = replace(one, folder=tmp_path).post(text=TEXT)
    assert scores(found) == pytest.approx(scores(one.post(text=TEXT)), abs=1e-5)


def test_rows_without_a_mask_are_padded_to_the_longest_text() -> None:
    reads = Preprocessing("pixels", 5, text={"pad": 7, "whole": True})
    row = reads.row([TensorSpec("input_ids", "INT64", ("batch", 5))], Text(np.array([1, 2])), None)
    assert row["input_ids"].tolist() == [[1, 2, 7, 7, 7]]
