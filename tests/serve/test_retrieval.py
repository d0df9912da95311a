"""Searching the server's index: every entry is scored as the model scores the pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.cells import NAMES, picture, sample, sigmoid
from vlcompress.errors import VlcompressError
from vlcompress.serve.index import MOST, read_index

TEXT, CAPTIONS = "a red circle", ["a blue square", "two stars", "a red circle"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of five images, four told by their features, and three captions."""
    folder = tmp_path_factory.mktemp("index")
    for name in NAMES[:4]:
        seen = picture(name).regions
        np.savez(folder / f"{name}.npz", features=seen.features, boxes=np.clip(seen.normalized_boxes, 0, 1))
    (folder / f"{NAMES[4]}.jpg").write_bytes(picture(NAMES[4]).jpeg)
    (folder / "captions.txt").write_text("\n".join([*CAPTIONS, "", " "]))
    (folder / "notes.md").write_text("not searched")
    return folder


@pytest.mark.parametrize("max_batch", [2, 32])
def test_every_entry_is_scored_as_the_model_does(cell: Any, index: Path, max_batch: int) -> None:
    one = cell("uniter", "retrieval")
    client = one.serve(index=index, max_batch=max_batch)
    found = client.post("/v1/retrieval", json={"text": TEXT, "top_k": 5}).json()
    scores = {answer["label"].partition(".")[0]: answer["score"] for answer in found["answers"]}
    assert (found["searched"], len(scores)) == (5, 5)
    expected = sigmoid(one.logits(*(sample(TEXT, name) for name in NAMES[:4])))
    assert [scores[name] for name in NAMES[:4]] == pytest.approx(expected.tolist(), abs=1e-4)
    texts = client.post("/v1/retrieval", json={"image": {"picture": NAMES[0]}}).json()
    expected = [float(sigmoid(one.logits(sample(caption, NAMES[0]))[0])) for caption in CAPTIONS]
    scores = {answer["label"]: answer["score"] for answer in texts["answers"]}
    assert [scores[caption] for caption in CAPTIONS] == pytest.approx(expected, abs=1e-4)
    assert [answer["score"] for answer in texts["answers"]] == sorted(scores.values(), reverse=True)


@pytest.mark.nightly
def test_pictures_of_any_size_are_searched_by_a_model_that_reads_pixels(cell: Any, tmp_path: Path) -> None:
    for name in NAMES[:3]:
        (tmp_path / f"{name}.jpg").write_bytes(picture(name).jpeg)
    client = cell("vilt", "retrieval").serve(index=tmp_path)
    assert client.post("/v1/retrieval", json={"text": TEXT}).json()["searched"] == 3
    refused = client.post("/v1/retrieval", json={"image": {"picture": NAMES[0]}})
    assert refused.json()["error"] == "the server's index holds no captions"
    (tmp_path / "broken.jpg").write_text("no picture")
    refused = client.post("/v1/retrieval", json={"text": TEXT})  # the index was read when the server started
    assert refused.status_code == 200


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"text": TEXT}, "this server has no index to search: start it with --index FOLDER"),
        ({}, "give either text, to find images, or image, to find texts"),
        ({"text": TEXT, "image": {"picture": NAMES[0]}}, "give either text, to find images, or image"),
        ({"image": {}}, "give exactly one of picture, image, features: there is none"),
    ],
)
def test_mistakes_are_told(cell: Any, asked: dict[str, Any], says: str) -> None:
    code, error = cell("uniter", "retrieval").post(**asked)
    assert (code, says in error) == (400, True), error


def test_an_index_that_cannot_be_searched_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no index at"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(VlcompressError, match=r"is empty: put pictures, \.npz features or captions\.txt into it"):
        read_index(tmp_path)
    (tmp_path / "captions.txt").write_text("a\n" * (MOST + 1))
    with pytest.raises(VlcompressError, match=f"holds 0 images and {MOST + 1} captions: at most {MOST} of each"):
        read_index(tmp_path)
