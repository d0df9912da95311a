"""Tiny models of every cell that is exported, with random weights: served from their folder alone, beside the truth."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tests.serve.conftest import Client
from vlcompress.data.people import PEOPLE
from vlcompress.data.published_tokenizer import PublishedTokenizer
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.tokenizer import WordPiece
from vlcompress.export.onnx import export_onnx, style
from vlcompress.models.base import Family, Head, Sample
from vlcompress.models.encoder.adapter import CHECKPOINT
from vlcompress.models.registry import family_named
from vlcompress.serve.app import create_app
from vlcompress.serve.scenes import Scenes
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.start import built_in
from vlcompress.sparse.timing import Effort

NAMES, picture = Scenes.names, Scenes().picture
WORDS = WordPiece(tokens())
HEADS = {
    "vqa": Head("answers", ("red", "blue", "no")),
    "snli_ve": Head("answers", ("entailment", "neutral", "contradiction")),
    "nlvr2": Head("pair", ("False", "True")),
    "vcr": Head("choice", ("wrong", "right")),
    "refcoco": Head("region"),
    "retrieval": Head("match"),
    "classification": Head("classes", ("circle", "square", "star")),
    "sentences": Head("classes", ("one", "two", "many")),
}
ENCODER_HEADS = {"retrieval": Head("embeddings")}
TASKS = {
    "lxmert": ("vqa", "nlvr2"),
    "uniter": ("vqa", "snli_ve", "nlvr2", "vcr", "refcoco", "retrieval"),
    "vilt": ("vqa", "nlvr2", "retrieval"),
    "resnet": ("classification",),
    "encoder": ("vqa", "retrieval", "classification", "sentences"),
}
CELLS = [(family, task) for family, tasks in TASKS.items() for task in tasks]


@dataclass(frozen=True)
class Cell:
    """A family on a task: its model, and the folder that it was exported to."""

    family: Family
    task: str
    config: dict[str, Any]
    model: nn.Module
    folder: Path

    @cached_property
    def client(self) -> Client:
        """Ask a server of the folder."""
        return self.serve()

    def serve(self, **settings: Any) -> Client:
        specs = (ModelSpec("m", self.folder),)
        return Client(create_app(Settings(specs, threads=1, sessions=1, demo=built_in, **settings)))

    def post(self, **asked: Any) -> Any:
        """Ask in words; give the answer, or the error."""
        found = self.client.post(f"/v1/{self.task}", json=asked)
        return found.json() if found.status_code == 200 else (found.status_code, found.json()["error"])

    def logits(self, *samples: Sample) -> NDArray[np.float64]:
        """Score with PyTorch what training would read."""
        with torch.inference_mode():
            return self.family.logits(self.model, self.family.collate(samples)).double().numpy()


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.from_numpy(logits).softmax(dim=-1).numpy()


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.as_tensor(logits).sigmoid().numpy()


def make_cell(
    name: str, task: str, folder: Path, precision: str = "fp32", rows: int = 4, checkpoint: Path | None = None
) -> Cell:
    """Export a tiny model with biases that matter; an encoder may be that of a folder of transformers."""
    family, words = family_named(name), WORDS
    if name == "encoder":
        size, source = ("tiny", None) if checkpoint is None else (CHECKPOINT, str(checkpoint))
        words = words if checkpoint is None else PublishedTokenizer.find(checkpoint) or WORDS
        config = family.config_of(size, source, task, words, 0)
        family, head = family.of(config), ENCODER_HEADS.get(task, HEADS[task])
    else:
        config = family.config("tiny", vocab_size=WORDS.vocab_size + PEOPLE * (task == "vcr"), feature_dim=128)
        head = HEADS[task]
    model = family.build(config, head, seed=0).eval()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter += 0.1 * noise if parameter.dim() == 1 else 0.05 * noise
    samples = [family.example_inputs(config, batch=rows, text=6, regions=4, seed=0)]
    export_onnx(
        family, model, folder, samples, config=config, head=head, effort=Effort(1, 0.001, 0),
        style=style(quantize="int8" if precision == "int8" else None, fp16=precision == "fp16"),
        score=lambda session: 1.0, reference=1.0, origin={"task": task},
        beside={"vocab.txt" if words is WORDS else "tokenizer.json": words.text},
    )  # fmt: skip
    return Cell(family, task, config, model, folder)


def sample(text: str, *names: str) -> Sample:
    """Make the sample of a text and built-in pictures, as training reads them."""
    (ids_T,) = WORDS.encode([text], 128)
    return Sample(ids_T, np.zeros_like(ids_T), tuple(picture(name).regions for name in names))
