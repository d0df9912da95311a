"""The real thing at its smallest: a tiny LXMERT is pruned, compiled and exported once, and served by both backends."""

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.serve.conftest import Client
from vlcompress.cli.main import main
from vlcompress.data.pixels import resized
from vlcompress.data.scenes.make import Part, make_picture
from vlcompress.data.scenes.proposals import propose
from vlcompress.data.scenes.render import decode
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.scenes.world import sample_scene
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.export.onnx import export_onnx
from vlcompress.models.base import Head, Sample
from vlcompress.models.registry import family_named
from vlcompress.serve.app import create_app
from vlcompress.serve.scenes import Scenes
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.start import built_in, make_settings, newest_model
from vlcompress.serve.tasks.images import read_picture
from vlcompress.sparse.timing import Effort
from vlcompress.tickets.models import samples, score_task, ticket_model
from vlcompress.tickets.run import Run, newest_run
from vlcompress.tickets.ticket import load_ticket

NAMES, picture = Scenes.names, Scenes().picture
QUESTION = "What color is the large circle?"
ALL = ["classification", "embeddings", "gqa", "nlvr2", "refcoco", "retrieval", "sentences", "snli_ve", "vcr", "vqa"]


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    return newest_run(home)


def client_for(home: Path, backend: str, dtype: str = "fp32") -> Client:
    settings = make_settings((), home=home, backend=backend, dtype=dtype, threads="1", sessions="1")  # type: ignore[arg-type]
    return Client(create_app(settings))


@pytest.fixture(scope="module")
def client(home: Path) -> Client:
    return client_for(home, "onnx")


def jpeg(name: str) -> str:
    return base64.b64encode(picture(name).jpeg).decode()


@pytest.mark.parametrize(
    ("backend", "dtype", "rtol", "atol"),
    [("onnx", "fp32", 1e-4, 1e-5), ("torch", "fp32", 1e-4, 1e-5), ("torch", "bf16", 0.05, 0.01)],
)
def test_the_newest_run_is_served_and_scores_as_the_model_does(
    home: Path, run: Run, backend: str, dtype: str, rtol: float, atol: float
) -> None:
    client = client_for(home, backend, dtype)
    ticket = load_ticket(run.ticket)
    (inputs,) = samples(score_task(run, ticket), 6)
    tensors = [
        {"name": name, "shape": list(value.shape), "datatype": "FP32" if value.is_floating_point() else "INT64",
         "data": value.flatten().tolist()}
        for name, value in inputs.items()
    ]  # fmt: skip
    found = client.post("/v2/models/lxmert_vqa/infer", json={"inputs": tensors}).json()
    family, model = ticket_model(ticket)
    expected = family.logits(model, inputs).detach().numpy()
    got = np.reshape(found["outputs"][0]["data"], found["outputs"][0]["shape"])
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
    assert (np.abs(got - expected).max() > 1e-5) == (dtype == "bf16")


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_word_outside_the_vocabulary_and_a_text_too_long_are_400(home: Path, backend: str) -> None:
    client = client_for(home, backend)

    def ask(word: int, length: int) -> Any:
        regions = {"visual_feats": 128, "visual_pos": 4}
        inputs = [
            {"name": name, "shape": [1, length], "datatype": "INT64", "data": [value] * length}
            for name, value in {"input_ids": word, "attention_mask": 1}.items()
        ] + [
            {"name": name, "shape": [1, 2, width], "datatype": "FP32", "data": [0.5] * 2 * width}
            for name, width in regions.items()
        ]
        return client.post("/v2/models/lxmert_vqa/infer", json={"inputs": inputs})

    assert ask(5, 24).status_code == 200
    assert ask(88, 4).status_code == 400
    long = ask(5, 25)  # the tiny model knows 24 positions
    assert long.status_code == 400, long.text
    assert ask(5, 24).status_code == 200


def test_an_exported_folder_answers_without_its_run(client: Client, run: Run, tmp_path: Path) -> None:
    alone = shutil.copytree(run.folder / "onnx", tmp_path / "alone")
    served = Client(create_app(make_settings((f"lxmert_vqa={alone}",), home=tmp_path, threads="1", sessions="1")))
    asked = {"question": QUESTION, "picture": NAMES[0], "top_k": 3}
    here, there = (one.post("/v1/vqa", json=asked).json() for one in (client, served))
    assert here["answers"] == there["answers"]


def test_a_built_in_picture_is_asked_with_its_stored_boxes(client: Client) -> None:
    found = client.post("/v1/vqa", json={"question": QUESTION, "picture": NAMES[0], "top_k": 3}).json()
    assert [set(answer) for answer in found["answers"]] == [{"label", "score"}] * 3
    scores = [answer["score"] for answer in found["answers"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert (found["model"], found["model_version"], found["boxes_from"]) == ("lxmert_vqa", "1", "stored")
    assert (found["unknown_words"], found["question_cut"]) == ([], False)
    assert found["timing_ms"]["total"] >= found["timing_ms"]["inference"] > 0


def test_features_give_the_same_answer_as_the_picture_they_come_from(client: Client) -> None:
    regions = picture(NAMES[0]).regions
    asked = {
        "question": QUESTION,
        "features": regions.features.tolist(),
        "boxes": np.clip(regions.normalized_boxes, 0, 1).tolist(),
    }
    by_name = client.post("/v1/vqa", json={"question": QUESTION, "picture": NAMES[0]}).json()
    assert client.post("/v1/vqa", json=asked).json()["answers"] == by_name["answers"]


def test_an_uploaded_picture_with_the_stored_boxes_gives_the_same_answer(client: Client) -> None:
    regions = picture(NAMES[1]).regions
    asked = {"question": QUESTION, "image": f"data:image/jpeg;base64,{jpeg(NAMES[1])}"}
    boxes = np.clip(regions.normalized_boxes.astype(float), 0, 1).tolist()
    given = client.post("/v1/vqa", json={**asked, "boxes": boxes}).json()
    by_name = client.post("/v1/vqa", json={"question": QUESTION, "picture": NAMES[1]}).json()
    assert given["boxes_from"] == "given"
    for a, b in zip(given["answers"], by_name["answers"], strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-3)
    proposed = client.post("/v1/vqa", json=asked).json()
    assert proposed["boxes_from"] == "proposed"
    assert len(proposed["boxes"]) == 8


def test_proposals_find_what_is_drawn() -> None:
    """On training pictures: the threshold was chosen on the held-out ones."""
    found = things = 0
    for number in range(1, 41):
        part = Part("train2014", 1, 40, 1)
        boxes = propose(decode(make_picture(0, part, number).jpeg))
        assert boxes.shape == (8, 4)
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        for thing in sample_scene(Random(f"0/train2014/{number}")).things:
            reach = thing.radius + 1
            around = (thing.x - reach, thing.y - reach, thing.x + reach, thing.y + reach)
            found += max(_overlap(around, box) for box in boxes) > 0.5
            things += 1
    assert found / things > 0.95


def test_a_picture_of_one_colour_still_gets_eight_boxes() -> None:
    assert propose(Image.new("RGB", (128, 96), "gray")).shape == (8, 4)


def test_words_that_the_model_does_not_know_are_told(client: Client) -> None:
    asked = {"question": "what color is the elephant?", "picture": NAMES[0]}
    assert client.post("/v1/vqa", json=asked).json()["unknown_words"] == ["elephant"]
    long = client.post("/v1/vqa", json={"question": "red " * 40, "picture": NAMES[0]}).json()
    assert long["question_cut"] is True


@pytest.mark.parametrize("name", ["uniter", pytest.param("vilt", marks=pytest.mark.nightly)])
def test_other_families_are_asked_in_the_same_words(name: str, tmp_path: Path) -> None:
    family, head = family_named(name), Head("answers", ("red", "blue", "no"))
    config = family.config("tiny", vocab_size=len(tokens()), feature_dim=128)
    model = family.build(config, head, seed=0).eval()
    samples = [family.example_inputs(config, batch=2, text=6, regions=8, seed=0)]
    export_onnx(family, model, tmp_path / "onnx", samples, config=config, head=head, effort=Effort(1, 0.001, 0))
    (tmp_path / "ticket").mkdir()
    (tmp_path / "ticket" / "vocab.txt").write_text("\n".join(tokens()) + "\n")
    (tmp_path / "ticket" / "config.json").write_text(json.dumps({"family": name, "config": config}))
    settings = Settings((ModelSpec("m", tmp_path),), threads=1, sessions=1, demo=built_in)
    client = Client(create_app(settings))
    pixels = family.reads == "pixels"
    assert client.get("/v1").json()["models"][0]["accepts"] == {"features": not pixels, "image": True}
    found = client.post("/v1/vqa", json={"question": QUESTION, "picture": NAMES[0]}).json()
    assert (found["boxes_from"], len(found["boxes"])) == (("none", 0) if pixels else ("stored", 8))
    shown = picture(NAMES[0])
    pixels_HW3 = resized(np.asarray(decode(shown.jpeg)), config["image_size"], config["patch_size"]) if pixels else None
    image = shown.regions if pixels_HW3 is None else pixels_HW3
    ids = WordPiece(tokens()).encode([QUESTION])[0]
    with torch.inference_mode():
        logits = family.logits(model, family.collate([Sample(ids, np.zeros_like(ids), (image,))]))[0]
    best = found["answers"][0]
    assert best["label"] == head.labels[int(logits.argmax())]
    assert best["score"] == pytest.approx(float(logits.max().sigmoid()), abs=1e-4)
    uploaded = client.post("/v1/vqa", json={"question": QUESTION, "image": jpeg(NAMES[0])})
    assert uploaded.status_code == 200, uploaded.text


def test_a_picture_of_sixteen_bits_of_grey_is_read_as_its_upper_eight() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x3412, np.uint16)).save(file, "PNG")
    assert read_picture(base64.b64encode(file.getvalue()).decode())[0].getpixel((0, 0)) == (0x34, 0x34, 0x34)


def encoded(picture: Image.Image, kind: str, **more: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_is_read_as_it_is_shown() -> None:
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("red", (0, 0, 20, 20))
    turned = Image.Exif()
    turned[0x0112] = 6  # shown a quarter turned to the right
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    read, size = read_picture(encoded(sideways, "JPEG", exif=turned, quality=95))
    assert read.size == size == (40, 20)
    assert np.abs(np.asarray(read).astype(int) - np.asarray(upright)).mean() < 5
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read_picture(encoded(hidden, "PNG"))[0].getpixel((0, 0)) == (255, 255, 255)


def png(size: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({}, 400, "give exactly one of picture, image, features: there is none"),
        ({"picture": NAMES[0], "image": "x"}, 400, "there is picture and image"),
        ({"picture": NAMES[0]}, 400, "'question' of request is missing"),
        ({"picture": NAMES[0], "question": "  "}, 400, "'question' of request is missing"),
        ({"picture": NAMES[0], "question": "x" * 3000}, 400, "at most 2000"),
        ({"picture": "../../etc/passwd", "question": "x"}, 404, "no built-in picture"),
        ({"picture": ["x"], "question": "x"}, 404, "no built-in picture"),
        ({"image": "%%%", "question": "x"}, 400, "not valid base64"),
        ({"image": "aGVsbG8=", "question": "x"}, 400, "not a picture in one of JPEG, PNG, WEBP"),
        ({"image": png((6000, 5000)), "question": "x"}, 400, "at most 25 million"),
        ({"image": 5, "question": "x"}, 400, "not base64 text"),
        ({"features": [[1.0] * 127], "boxes": [[0, 0, 1, 1]], "question": "x"}, 400, "rows of 128 numbers"),
        ({"features": [["a"] * 128], "boxes": [[0, 0, 1, 1]], "question": "x"}, 400, "rows of 128 numbers"),
        ({"features": [[1e99] * 128], "boxes": [[0, 0, 1, 1]], "question": "x"}, 400, "not finite"),
        ({"features": [[1.0] * 128], "boxes": [[0, 0, 1, 1]] * 2, "question": "x"}, 400, "1 rows of features and 2"),
        ({"features": [[1.0] * 128], "boxes": [[0.5, 0, 0.5, 1]], "question": "x"}, 400, "corners x1, y1, x2, y2"),
        ({"features": [[1.0] * 128], "boxes": [[0, 0, 640, 480]], "question": "x"}, 400, "corners x1, y1, x2, y2"),
        ({"picture": NAMES[0], "question": "x", "top_k": 0}, 400, "from 1 to 100"),
        ({"picture": NAMES[0], "question": "x", "version": True}, 400, "'version' of request is True: give a whole"),
        ({"picture": NAMES[0], "question": "x", "version": 1.0}, 400, "'version' of request is 1.0: give a whole"),
        ({"picture": NAMES[0], "question": "x", "model": "nope"}, 404, "unknown model"),
    ],
)
def test_wrong_questions_say_what_is_wrong(client: Client, asked: dict[str, Any], status: int, says: str) -> None:
    found = client.post("/v1/vqa", json=asked)
    assert found.status_code == status, found.text
    assert says in found.json()["error"]


def test_unknown_tasks_and_models_that_do_not_do_it(
    client: Client, models: Path, settings: Callable[..., Settings]
) -> None:
    found = client.post("/v1/chess", json={})
    assert (found.status_code, found.json()["error"]) == (404, f"unknown task 'chess': allowed are {', '.join(ALL)}")
    tensors_only = Client(create_app(settings()))
    asked = {"question": "x", "picture": NAMES[0]}
    assert "no model on this server does task 'vqa'" in tensors_only.post("/v1/vqa", json=asked).json()["error"]
    assert "does not do task" in tensors_only.post("/v1/vqa", json={**asked, "model": "words"}).json()["error"]
    assert tensors_only.get("/v1").json() == {"tasks": ALL, "models": [], "pictures": []}


def test_the_overview_lists_models_and_pictures_with_questions(client: Client) -> None:
    found = client.get("/v1").json()
    (model,) = found["models"]
    assert (model["name"], model["accepts"]) == ("lxmert_vqa", {"features": True, "image": True})
    assert model["block"] == "8x4"
    assert [picture["name"] for picture in found["pictures"]] == list(NAMES)
    assert all(row["question"] and row["people"] for row in found["pictures"][0]["questions"])
    found = client.get(f"/v1/pictures/{NAMES[3]}")
    assert found.headers["content-type"] == "image/jpeg"
    assert found.content == picture(NAMES[3]).jpeg
    assert client.get("/v1/pictures/none").status_code == 404


def test_without_anything_exported_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="run `vlcompress prune` and `vlcompress export --format onnx` first"):
        newest_model(tmp_path, "onnx")
    result = CliRunner().invoke(main, ["serve", "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is nothing to serve")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--threads", "many"], "--threads 'many' is neither a number"),
        (["--sessions", "9" * 5000], "--sessions '99999999999999999999' is neither a number"),
        (["--sessions", "0"], "--sessions '0' is neither a number"),
        (["--token-file", "missing"], "cannot be read"),
        (["--backend", "torch", "--provider", "cuda"], "provider 'cuda' is for onnx"),
        (["--provider", "cuda"], "provider 'cuda' is not in this onnxruntime"),
        (["nowhere"], "no model at 'nowhere'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(home: Path, arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["serve", "--home", str(home), *arguments])
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]


def test_manifest_facts_reach_the_metrics(client: Client, run: Run) -> None:
    plan = json.loads((run.folder / "compiled" / "plan.json").read_text())
    assert f'sparsity="{plan["sparsity"]:.4g}"' in client.get("/metrics").text


def _overlap(a: Any, b: Any) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))
