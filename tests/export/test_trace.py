"""Tracing ViLT and UNITER: batch, lengths and the size of the pictures stay open, and the scores stay the same."""

import onnx_ir as ir
import pytest
import torch

from vlcompress.export.runtime import session_from_bytes
from vlcompress.export.trace import trace
from vlcompress.models.base import Head, HeadKind
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.models.vilt.adapter import ViltFamily

FAMILY = ViltFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50)


def test_statements_about_two_images_trace_too() -> None:
    model = FAMILY.build(CONFIG, Head("pair", ("false", "true")), seed=0).eval()
    session = session_from_bytes(ir.to_proto(trace(FAMILY, model, CONFIG)).SerializeToString(), threads=1)
    for rows in (2, 6):
        inputs = FAMILY.example_inputs(CONFIG, batch=rows, text=4, regions=3, seed=2)
        with torch.no_grad():
            expected = FAMILY.logits(model, inputs)
        (actual,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        assert actual.shape == (rows // 2, 2)
        assert actual == pytest.approx(expected.numpy(), abs=1e-5)


def test_vilt_traces_with_open_axes() -> None:
    model = FAMILY.build(CONFIG, Head("answers", ("yes", "no", "red")), seed=0).eval()
    graph = trace(FAMILY, model, CONFIG)
    session = session_from_bytes(ir.to_proto(graph).SerializeToString(), threads=1)
    for batch, text, columns in ((1, 4, 2), (5, 9, 7), (2, 40, 1)):
        inputs = FAMILY.example_inputs(CONFIG, batch=batch, text=text, regions=columns, seed=2)
        higher = {name: torch.nn.functional.pad(inputs[name], (0, 0, 0, 32)) for name in ("pixel_values", "pixel_mask")}
        for given in (inputs, inputs | higher):
            with torch.no_grad():
                expected = FAMILY.logits(model, given)
            (actual,) = session.run(None, {name: value.numpy() for name, value in given.items()})
            assert torch.from_numpy(actual).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", ["pair", "choice"])
@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_uniter_reads_the_types_of_words_and_regions(kind: HeadKind, fused: bool) -> None:
    family = UniterFamily()
    config = family.config("tiny", vocab_size=50, feature_dim=8)
    model = family.build(config, Head(kind, ("wrong", "right")), seed=0).eval()
    data = ir.to_proto(trace(family, model, config)).SerializeToString()
    session = session_from_bytes(data, threads=1, disable_skip_layer_norm=not fused)
    for batch, text, regions in ((2, 4, 3), (6, 9, 2)):
        inputs = family.example_inputs(config, batch=batch, text=text, regions=regions, seed=batch)
        other = inputs | {name: (inputs[name] + 1) % 2 for name in ("token_type_ids", "visual_type_ids")}
        scores = []
        for given in (inputs, other):
            with torch.no_grad():
                expected = family.logits(model, given).numpy()
            scores.append(session.run(None, {name: value.numpy() for name, value in given.items()})[0])
            assert scores[-1] == pytest.approx(expected, abs=1e-5 * float(abs(expected).max()))
        assert abs(scores[0] - scores[1]).max() > 1e-3 * abs(scores[0]).max()
