"""What the server makes of a question and an image: the rows that training reads, without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlcompress.models.base import Family, Sample
from vlcompress.models.registry import family_named
from vlcompress.serve.preprocessing import Preprocessing, Text
from vlcompress.serve.scenes import Scenes
from vlcompress.serve.tensors import TensorSpec

SERVE = """
import asyncio, json, sys
for name in ("torch", "transformers", "huggingface_hub", "safetensors", "scipy", "matplotlib", "ray"):
    sys.modules[name] = None  # as if it were not installed
import httpx
from pathlib import Path
from vlcompress.cli.serve import command
from vlcompress.serve.app import create_app
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.start import built_in, make_settings

def ours():
    return sorted(name for name in sys.modules if name.startswith("vlcompress."))

async def asked(settings):
    app = create_app(settings)
    app.state.server.load()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        await client.get("/openapi.json")
        models = (await client.get("/v1")).json()["models"]
        found = await client.post("/v1/vqa", json={"question": "What color is it?", "picture": sys.argv[2]})
        return models[0]["accepts"], found.json(), ours()

plain = Settings((ModelSpec("m", Path(sys.argv[1])),), threads=1, sessions=1)
whole = make_settings([f"m={sys.argv[1]}"], home=Path("nowhere"), threads="1", sessions="1")
print(json.dumps([asyncio.run(asked(settings)) for settings in (plain, whole)]))
"""
"""Serves argv[1] as a library does, then as `vlcompress serve` does, with the picture argv[2]."""


class Drawn:
    """A source of one picture."""

    def __init__(self, picture: Any) -> None:
        self.pixels = lambda name: picture


def image_of(family: Family, config: dict[str, Any]) -> tuple[Any, Any]:
    """Give an image as a request has it, and as training reads it."""
    if family.reads == "regions":
        return (Scenes().picture(Scenes.names[0]).regions,) * 2
    picture = np.random.default_rng(0).integers(0, 256, (70, 100, 3)).astype(np.uint8)
    return picture, family.pictures(config, Drawn(picture)).pixels("")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt"])
def test_a_row_is_what_training_reads(name: str) -> None:
    family = family_named(name)
    config = family.config("tiny", vocab_size=50, feature_dim=128)
    given, trained = image_of(family, config)
    ids_T = np.array([2, 7, 9, 11, 3])
    expected = family.collate([Sample(ids_T, np.zeros_like(ids_T), (trained,))])
    specs = [TensorSpec(key, "FP32", ("batch", *value.shape[1:])) for key, value in expected.items()]
    preprocessing = Preprocessing.read(family.preprocessing(config))
    assert preprocessing.fills(specs)
    assert not preprocessing.fills([*specs, TensorSpec("depth", "FP32", ("batch", 3))])
    row = preprocessing.row(specs, Text(ids_T), given)
    assert row.keys() == expected.keys()
    for key, value in expected.items():
        assert row[key].dtype == value.numpy().dtype, key
        assert np.array_equal(row[key], value.numpy()), key


def test_the_longest_text_is_the_smaller_of_the_family_s_and_the_model_s() -> None:
    family = family_named("lxmert")
    config = {"visual_feat_dim": 4}
    assert family.preprocessing(config)["longest_text"] == family.longest_text
    assert family.preprocessing({**config, "max_position_embeddings": 7})["longest_text"] == 7


def test_an_exported_model_is_served_without_torch_and_without_what_made_it(home: Path) -> None:
    (run,) = (path.parent for path in home.glob("*/onnx"))
    arguments = [sys.executable, "-c", SERVE, str(run / "onnx"), Scenes.names[0]]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (accepts, refused, imported), (with_demo, found, _) = json.loads(ended.stdout)
    assert accepts == {"features": True, "image": False}
    assert refused["error"] == "model 'm' takes no pictures: it needs 'features' of its own region detector"
    kept_out = ("data.scenes", "studies", "tickets", "training", "pruning", "sparse", "tasks", "kernels", "bench")
    assert not [name for name in imported if name.startswith(tuple(f"vlcompress.{part}" for part in kept_out))]
    assert with_demo == {"features": True, "image": True}
    assert (len(found["answers"]), found["boxes_from"]) == (5, "stored")
