"""The five commands in the order in which a user types them, on a run small enough for tests."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import vlcompress
from vlcompress.api import Opened
from vlcompress.artefacts import dumps
from vlcompress.bench.bench_run import bench_run
from vlcompress.cli.main import main
from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError
from vlcompress.report.text import bench_text
from vlcompress.results import BenchResult, RunResult, load, to_json
from vlcompress.sparse.timing import Effort
from vlcompress.tickets.models import samples, score_task, ticket_model
from vlcompress.tickets.run import Run, newest_run
from vlcompress.tickets.ticket import load_ticket

BF16 = Compute("cpu", "bf16")


def run(home: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [*arguments, "--home", str(home)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def home(tiny_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished, compiled and exported run."""
    folder = tmp_path_factory.mktemp("home")
    prune = ["prune", "--size", "tiny", "--data", str(tiny_scenes), "--pattern", "block:8x4", "--steps", "4"]
    for arguments in ([*prune, "--control", "unstructured"], ["compile", "--batch", "4"], ["export", "--batch", "8"]):
        code, _, err = run(folder, *arguments)
        assert code == 0, err
    return folder


def finished(home: Path) -> Run:
    return newest_run(home)


def test_compiled_model_is_smaller_and_its_plan_gives_a_reason_for_every_layer(home: Path) -> None:
    folder = finished(home).folder
    plan = json.loads((folder / "compiled" / "plan.json").read_text())["plan"]
    assert all(layer["choice"]["why"] for layer in plan["layers"])
    assert (folder / "compiled" / "weights.safetensors").stat().st_size < (
        folder / "ticket" / "model.safetensors"
    ).stat().st_size


def test_python_opens_what_the_commands_wrote(home: Path) -> None:
    chosen = finished(home)
    ticket, compiled, onnx = (vlcompress.load(chosen.folder / name) for name in ("ticket", "compiled", "onnx"))
    (inputs,) = samples(score_task(chosen, load_ticket(chosen.ticket)), 8)
    scores = ticket(inputs)
    for one in (compiled, onnx, vlcompress.load(chosen.folder)):
        torch.testing.assert_close(one(inputs), scores, atol=1e-4, rtol=1e-4)
    assert isinstance(ticket, Opened)
    assert ticket.masks is not None
    quick = Effort(rounds=1, burst_s=0.0, warmup=0)
    _, plan = vlcompress.compile(ticket.model, ticket.masks, inputs, effort=quick, of=ticket)
    assert {layer.name for layer in plan.layers} == {*ticket.masks}
    with pytest.raises(VlcompressError, match="have no effect here: a ticket opens in float32 on the CPU"):
        vlcompress.load(chosen.ticket, dtype="bf16")


def test_exported_file_answers_as_the_ticket_does_in_plain_onnxruntime(home: Path) -> None:
    """Nothing of this project between the file and the runtime."""
    chosen = finished(home)
    ticket = load_ticket(chosen.ticket)
    family, model = ticket_model(ticket)
    (inputs,) = samples(score_task(chosen, ticket), 8)
    session = onnxruntime.InferenceSession(chosen.folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits), family.logits(model, inputs), rtol=1e-4, atol=1e-5)
    labels = (chosen.folder / "onnx" / "labels.txt").read_text().splitlines()
    assert labels == list(ticket.head.labels)


def test_bench_scores_every_variant_and_report_shows_it(home: Path) -> None:
    chosen = finished(home)
    record = bench_run(chosen, batches=(2,), effort=Effort(rounds=3, burst_s=0.001), say=lambda line: None)
    names = ["dense", "masked", "compiled", "onnx dense", "onnx compiled"]
    assert list(record.variants) == names
    scores = {name: (record.accuracy or {})[name].score for name in names}
    cells = {(cell.arm, cell.round): cell.scores[0] for cell in chosen.result().cells}
    assert scores["dense"] == scores["onnx dense"] == pytest.approx(cells["dense", 0])
    assert scores["masked"] == scores["compiled"] == scores["onnx compiled"] == pytest.approx(cells["ticket", 2])
    assert [point.round for point in record.curve or ()] == [1, 2]
    for kind, name in ((RunResult, "run.json"), (BenchResult, "bench.json")):
        assert dumps(to_json(load(kind, chosen.folder / name))) == (chosen.folder / name).read_text()
    code, out, err = run(home, "report")
    assert code == 0, err
    page = (chosen.folder / "report.html").read_text()
    assert "onnx compiled" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert str(chosen.folder / "report.html") in out


@pytest.mark.nightly
def test_bench_in_another_dtype_says_so_and_compares_within_its_bound(home: Path) -> None:
    chosen = finished(home)
    record = bench_run(
        chosen, batches=(2,), effort=Effort(rounds=3, burst_s=0.001), compute=BF16, say=lambda line: None
    )
    assert record.computed_on == {**BF16.describe(), "dtype": "bf16"}
    assert record.provider == "cpu"
    errors = {name: variant.parity["max_rel_error"] for name, variant in record.variants.items()}
    assert 1e-5 < errors["onnx compiled"] < 0.1, "bfloat16 against float32"
    assert "in bf16; ONNX Runtime on provider cpu" in bench_text(record)


def test_every_form_answers_a_split_alike(home: Path, tmp_path: Path) -> None:
    found = {}
    for form in ("masked", "compiled", "onnx"):
        out = tmp_path / f"{form}.json"
        code, said, err = run(home, "predict", "--split", "minival", "--out", str(out), "--form", form, "--json")
        assert code == 0, err
        document = json.loads(said)
        assert document["form"] == form
        found[form] = out.read_bytes()
    assert found["masked"] == found["compiled"] == found["onnx"]
    told = ["predict", "--split", "minival", "--out", str(tmp_path / "lower.json"), "--dtype", "bf16", "--json"]
    code, said, err = run(home, *told, "--form", "compiled")
    assert code == 0, err
    assert json.loads(said)["computed_on"]["dtype"] == "bf16"
    assert "the plan was made on" in err
    assert "have no effect on an exported file" in run(home, *told, "--form", "onnx")[2]


def test_verify_takes_the_truth_in_another_dtype(home: Path) -> None:
    file = finished(home).folder / "onnx" / "model.onnx"
    result = CliRunner().invoke(main, ["verify", str(file), "--dtype", "bf16", "--provider", "cpu", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["computed_on"]["dtype"], found["provider"]) == ("bf16", "cpu")
    assert found["parity"]["samples"]["max_rel_error"] > 1e-5


def test_a_damaged_ticket_is_refused(home: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(home, copy)
    weights = finished(copy).ticket / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.write_bytes(content)
    code, _, err = run(copy, "compile")
    assert code == 2
    assert "is corrupted: its sha256 is not the recorded" in err


@pytest.mark.parametrize("command", ["compile", "export", "bench", "report"])
def test_without_a_run_each_command_says_what_to_do(tmp_path: Path, command: str) -> None:
    code, _, err = run(tmp_path, command)
    assert code == 2
    assert "there is no finished run" in err
    assert err.strip().count("\n") == 0


def test_order_of_the_commands_is_told(tiny_scenes: Path, tmp_path: Path) -> None:
    run(tmp_path, "prune", "--size", "tiny", "--data", str(tiny_scenes), "--steps", "2", "--control", "none")
    assert "run `vlcompress compile` first" in run(tmp_path, "export")[2]
    assert "run `vlcompress compile` first" in run(tmp_path, "bench")[2]
