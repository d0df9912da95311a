"""The weights in the package are the ones that their record describes, and they load strictly."""

import json
from pathlib import Path

import torch

import vlcompress
from vlcompress.artefacts import file_sha256
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily

FOLDER = Path(vlcompress.__file__).parent / "weights"


def test_hash_size_and_record() -> None:
    record = json.loads((FOLDER / "lxmert-small-scenes.json").read_text())
    weights = FOLDER / "lxmert-small-scenes.safetensors"
    assert file_sha256(weights) == record["files"][weights.name]["sha256"]
    assert weights.stat().st_size < 16e6
    losses = [entry["loss"] for entry in record["log"]]
    assert losses[-1] < losses[0] / 2


def test_they_load_into_the_size_that_they_are_of() -> None:
    family = LxmertFamily()
    config = family.config("small", vocab_size=88, feature_dim=128)
    model = family.build(config, Head("answers", ("yes", "no")), seed=0)
    report = family.load(model, str(FOLDER / "lxmert-small-scenes.safetensors"), fresh_head=True)
    assert report.head == "fresh"
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
