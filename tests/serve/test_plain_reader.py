"""An exported folder is enough by itself: read with onnxruntime, tokenizers and Pillow alone, it answers alike."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tokenizers import Tokenizer

from tests.serve.cells import NAMES, picture

QUESTION = "What color is the LARGE circle , and is it left of the red star ?"


class PlainReader:
    """What somebody would write who has the folder and its preprocessing.json before them."""

    def __init__(self, folder: Path) -> None:
        self.reads = json.loads((folder / "preprocessing.json").read_text())
        self.labels = (folder / "labels.txt").read_text().split("\n")[:-1]
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        if "tokenizer" in self.reads:
            self.tokenizer = Tokenizer.from_file(str(folder / self.reads["tokenizer"]))

    def answer(self, text: str, **image: Any) -> dict[str, float]:
        made = (self.words(text) if text else {}) | (
            self.regions(**image) if "boxes" in image else self.pixels(**image)
        )
        names = [one.name for one in self.session.get_inputs()]
        (logits,) = self.session.run(None, {name: made[name][None] for name in names})
        powers = np.exp(logits[0].astype(float))
        scores = powers / (1 + powers) if self.reads["scores"] == "sigmoid" else powers / powers.sum()
        return dict(zip(self.labels, scores.tolist(), strict=True))

    def words(self, text: str) -> dict[str, Any]:
        found = self.tokenizer.encode(text)
        ids = np.array(found.ids)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.array(found.type_ids)}

    def regions(self, features: Any, boxes: Any) -> dict[str, Any]:
        assert features.shape[1] == self.reads["feature_width"]
        x1, y1, x2, y2 = boxes.T
        parts = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "width": x2 - x1, "height": y2 - y1}
        parts["area"] = parts["width"] * parts["height"]
        there = np.ones(len(boxes), np.int64)
        position = np.stack([parts[name] for name in self.reads["boxes"]], axis=1).astype(np.float32)
        masks = {"visual_attention_mask": there, "visual_type_ids": there}
        return {"visual_feats": features, "visual_pos": position, **masks}

    def pixels(self, file: bytes) -> dict[str, Any]:
        shown = Image.open(io.BytesIO(file)).convert("RGB")
        kind = Image.Resampling[self.reads["filter"].upper()]
        if "square" in self.reads:
            side, least = self.reads["square"], min(shown.size)
            left, top = (shown.width - least) // 2, (shown.height - least) // 2
            shown = shown.crop((left, top, left + least, top + least)).resize((side, side), kind)
        else:
            scale = self.reads["shorter"] / min(shown.size)
            scale = min(scale, self.reads["longest"] / max(shown.size))
            multiple = self.reads["multiple"]
            shown = shown.resize(
                [max(multiple, int(side * scale + 0.5) // multiple * multiple) for side in shown.size], kind
            )
        values = (np.asarray(shown, np.float32) / 255 - np.float32(self.reads["mean"])) / np.float32(self.reads["std"])
        return {"pixel_values": values.transpose(2, 0, 1), "pixel_mask": np.ones(values.shape[:2], bool)}


@pytest.mark.parametrize(
    "family", ["lxmert", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("uniter", "vilt"))]
)
def test_a_question_is_answered_alike(cell: Any, family: str) -> None:
    one, seen = cell(family, "vqa"), picture(NAMES[2]).regions
    boxes = np.clip(seen.normalized_boxes, 0, 1)
    if family == "vilt":
        asked: dict[str, Any] = {"image": base64.b64encode(picture(NAMES[2]).jpeg).decode()}
        found = PlainReader(one.folder).answer(QUESTION, file=picture(NAMES[2]).jpeg)
    else:
        asked = {"features": seen.features.tolist(), "boxes": boxes.tolist()}
        found = PlainReader(one.folder).answer(QUESTION, features=seen.features, boxes=boxes)
    ours = {answer["label"]: answer["score"] for answer in one.post(question=QUESTION, **asked)["answers"]}
    assert found == pytest.approx(ours, abs=1e-5)


def test_a_long_question_is_cut_alike(cell: Any) -> None:
    one, seen = cell("lxmert", "vqa"), picture(NAMES[2]).regions
    boxes = np.clip(seen.normalized_boxes, 0, 1)
    long = "red blue " * 40
    found = PlainReader(one.folder).answer(long, features=seen.features, boxes=boxes)
    answered = one.post(question=long, features=seen.features.tolist(), boxes=boxes.tolist())
    assert answered["question_cut"]
    assert found == pytest.approx({answer["label"]: answer["score"] for answer in answered["answers"]}, abs=1e-5)


def test_a_picture_is_classified_alike(cell: Any) -> None:
    one, file = cell("resnet", "classification"), io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 256, (61, 90, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    found = PlainReader(one.folder).answer("", file=file.getvalue())
    ours = one.post(image=base64.b64encode(file.getvalue()).decode())["answers"]
    assert found == pytest.approx({answer["label"]: answer["score"] for answer in ours}, abs=1e-5)
