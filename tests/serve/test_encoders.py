"""Encoders of transformers served in words: what their folder says is enough, and answers are the model's own."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tests.models.encoder.architectures import ENCODERS
from tests.serve.cells import NAMES, WORDS, make_cell, picture, sigmoid, softmax
from vlcompress.data.pixels import framed
from vlcompress.data.published_tokenizer import PublishedTokenizer
from vlcompress.models.base import Sample
from vlcompress.serve.preprocessing import Preprocessing, Text, bare_regions
from vlcompress.serve.tasks.images import decoded
from vlcompress.serve.tensors import TensorSpec

TEXT, CAPTIONS = "a red circle", ["a blue square", "two stars"]
EITHER = ({"text": TEXT}, {"image": {"picture": NAMES[0]}})


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


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "task"), [("siglip", "retrieval"), ("roberta", "sentences"), ("visual_bert", "vqa")])
def test_checkpoints_with_tokenizers_of_their_own_answer_as_the_model_does(
    name: str, task: str, tmp_path: Path
) -> None:
    """Rows without a mask (SigLIP), positions that begin after the padding's (RoBERTa), and features (VisualBERT)."""
    words = write_checkpoint(name, tmp_path / name)
    one = make_cell("encoder", task, tmp_path / "onnx", checkpoint=tmp_path / name)
    (ids_T,) = words.encode([TEXT], one.config["max_position_embeddings"])
    if name == "siglip":
        text, image = vectors(one, replace(seen(one, TEXT, NAMES[0]), ids=ids_T, types=np.zeros_like(ids_T)))[0]
        found = [one.client.post("/v1/embeddings", json=asked).json()["embedding"] for asked in EITHER]
        np.testing.assert_allclose(found, [text, image], atol=1e-4)
    elif name == "roberta":
        expected = softmax(one.logits(Sample(ids_T, np.zeros_like(ids_T), ()))[0])
        assert [scores(one.post(text=TEXT))[label] for label in ("one", "two", "many")] == pytest.approx(
            expected.tolist(), abs=1e-4
        )
    else:
        boxes, features = [[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1]], np.random.default_rng(0).standard_normal((2, 16))
        regions = bare_regions(np.array(boxes, np.float32), features.astype(np.float32))
        expected = sigmoid(one.logits(Sample(ids_T, np.zeros_like(ids_T), (regions,)))[0])
        found = scores(one.post(question=TEXT, features=features.tolist(), boxes=boxes))
        assert [found[label] for label in ("red", "blue", "no")] == pytest.approx(expected.tolist(), abs=1e-4)


def write_checkpoint(name: str, folder: Path) -> PublishedTokenizer:
    """Write a fresh model of transformers, with the kind of tokenizer that it is published with."""
    kind, own = ENCODERS[name][1]()
    kind(own).save_pretrained(folder)
    special = ["[CLS]", "[PAD]", "[UNK]", "[SEP]"] if name == "roberta" else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {token: index for index, token in enumerate([*special, *f"{TEXT} blue square two stars".split()])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]" if name == "siglip" else "[CLS] $A [SEP]",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    reads = {"size": size, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(reads))
    return PublishedTokenizer.read(tokenizer.to_str())


def test_rows_without_a_mask_are_padded_to_the_longest_text() -> None:
    reads = Preprocessing("pixels", 5, text={"pad": 7, "whole": True})
    row = reads.row([TensorSpec("input_ids", "INT64", ("batch", 5))], Text(np.array([1, 2])), None)
    assert row["input_ids"].tolist() == [[1, 2, 7, 7, 7]]
