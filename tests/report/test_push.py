"""A run is published whole, in one commit, with a card of its worth, or not at all: against a stand-in of the hub."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.report.conftest import change
from tests.report.hub import Hub
from vlcompress.artefacts import read_json, seal, write_file
from vlcompress.cli.main import main
from vlcompress.report.push import ARTEFACTS
from vlcompress.tickets.run import Run

WEIGHTS = {"ticket": "model.safetensors", "compiled": "weights.safetensors", "onnx": "model.onnx"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    serving = Hub()
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", serving.address)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def run(measured: Run) -> Run:
    """A measured run with a ticket, all of it sealed."""
    write_file(measured.ticket / "README.md", "# lxmert small, vqa: a ticket at 70.0 %\n\nmatching: pass, seeds [0]\n")
    for folder, name in WEIGHTS.items():
        place, document = measured.folder / folder, measured.folder / folder / ARTEFACTS[folder]
        write_file(place / name, f"weights of {folder}".encode())
        seal(place, document.name, read_json(document) if document.is_file() else {})
    return measured


def pushed(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["push", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_run_is_published_in_one_commit_with_its_worth(hub: Hub, run: Run) -> None:
    code, out, err = pushed(run.folder, "ours/ticket", "--private")
    assert (code, out) == (0, f"published: {hub.address}/ours/ticket/commit/1a2b\n"), err
    assert hub.repo["name"] == "ticket"
    assert "private" in str(hub.repo)
    assert sum("/commit/" in call for call in hub.calls) == 1
    assert hub.files["model.safetensors"] == b"weights of ticket"
    assert hub.files["compiled/weights.safetensors"] == b"weights of compiled"
    assert hub.files["onnx/model.onnx"] == b"weights of onnx"
    assert json.loads(hub.files["run.json"])["metric"] == "VQA soft score"
    card = hub.files["README.md"].decode()
    assert card.startswith(
        "---\nlibrary_name: vlcompress\ntags: [lottery-ticket, pruning, sparse, lxmert, vqa]\n---\n#"
    )
    assert "matching: pass, seeds [0]" in card
    assert re.search(r"On .+ 2 cores, 2 thread\(s\), load 1.5; onnxruntime 1.31.1, torch 2.13.0", card)
    assert re.search(r"\| compiled \| 1 \| [\d.]+ \|", card)
    assert "`vlcompress prune recipe.toml` (torch 2.13.0+cpu, vlcompress 0.1.0)" in card
    assert hub.files["recipe.toml"].decode().rstrip() in card


def test_a_dry_run_lists_files_and_sizes_and_asks_no_hub(hub: Hub, run: Run) -> None:
    code, out, _ = pushed(run.folder, "ours/ticket", "--dry-run", "--json")
    listed = json.loads(out)["files"]
    assert code == 0
    assert listed["model.safetensors"] == len(b"weights of ticket")
    assert {"README.md", "recipe.toml", "run.json", "bench.json", "ticket.json", "compiled/plan.json"} <= {*listed}
    assert hub.calls == []
    assert re.search(r"compiled/weights.safetensors +19\n", pushed(run.folder, "ours/ticket", "--dry-run")[1])


def test_what_is_not_there_and_what_tells_of_this_machine_is_said(hub: Hub, run: Run) -> None:
    for path in sorted((run.folder / "onnx").iterdir()):
        path.unlink()
    (run.folder / "onnx").rmdir()
    change(run.folder / "run.json", "recipe/data/source", "/home/me/vqa")
    err = pushed(run.folder, "ours/ticket", "--dry-run")[2]
    assert "no onnx/ in this run: it is left out" in err
    assert "warning: the recipe's source '/home/me/vqa' is a path of this machine, and is published as it stands" in err


@pytest.mark.parametrize("name", ["ours/ti cket", "a/b/c", "-x"])
def test_a_name_that_is_none_is_refused(run: Run, name: str) -> None:
    code, _, err = pushed("--dry-run", run.folder, "--", name)
    assert (code, err) == (2, f"error: '{name}' names no repository: give OWNER/NAME, of letters, digits, - _ .\n")


def test_a_ticket_without_its_measured_effect_is_not_published(hub: Hub, run: Run) -> None:
    (run.folder / "bench.json").unlink()
    code, _, err = pushed(run.folder, "ours/ticket")
    assert code == 2
    assert "has no bench.json, and no ticket is published without its measured effect: run `vlcompress bench`" in err
    assert hub.calls == []


def test_a_damaged_file_is_not_published(hub: Hub, run: Run) -> None:
    (run.folder / "compiled/weights.safetensors").write_bytes(b"weights of compilee")
    code, _, err = pushed(run.folder, "ours/ticket")
    assert code == 2
    assert "weights.safetensors" in err
    assert hub.calls == []


def test_no_token_no_right_and_no_network_are_a_line_each(
    hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.refuses = "You don't have the rights to write here"
    code, _, err = pushed(run.folder, "ours/ticket")
    assert code == 2
    assert "the hub refused 'ours/ticket': You don't have the rights to write here; check name and rights" in err
    assert hub.files == {}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = pushed(run.folder, "ours/ticket")
    assert code == 2
    assert re.search("error: the hub refused 'ours/ticket': .*Invalid username or password", err)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = pushed(run.folder, "ours/ticket")
    assert code == 2
    assert re.search(
        r"error: the hub was not reached \(.*[Cc]onnect.*\): nothing was published; check the network\n", err
    )
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, _, err = pushed(run.folder, "ours/ticket")
    assert (code, err.splitlines()[-1]) == (
        2, "error: no token for the hub: run `hf auth login`, or set HF_TOKEN to one that may write"
    )  # fmt: skip
