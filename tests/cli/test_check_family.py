"""`vlcompress check-family`: exit codes, and a table that names what is missing."""

import json

import pytest
from click.testing import CliRunner

from vlcompress.cli.main import main
from vlcompress.models.registry import FAMILIES
from vlcompress.models.vilt.adapter import ViltFamily


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_here_pass(name: str) -> None:
    result = CliRunner().invoke(main, ["check-family", name])
    assert result.exit_code == 0, result.output
    assert "0 failed" in result.output


def test_one_that_fails_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(
        "Odd", (ViltFamily,), {"name": "odd", "tasks": ("vqa", "vqa3"), "modality_of": lambda self, name: "head"}
    )
    monkeypatch.setitem(FAMILIES, "odd", kind)
    result = CliRunner().invoke(main, ["check-family", "odd", "--json"])
    assert result.exit_code == 2
    found = {one["name"]: one for one in json.loads(result.stdout)["checks"] if one["status"] == "fail"}
    assert set(found) == {"modalities", "tasks", "recipes"}
    assert found["tasks"]["what"] == "tasks ['vqa3']"


def test_a_missing_attribute_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Odd", (ViltFamily,), {"name": "odd", "logits": None})
    kind.__abstractmethods__ = frozenset({"logits"})
    monkeypatch.setitem(FAMILIES, "odd", kind)
    result = CliRunner().invoke(main, ["check-family", "odd"])
    assert result.exit_code == 2
    assert "it lacks logits" in result.output
    pruned = CliRunner().invoke(main, ["prune", "--model", "odd", "--size", "tiny", "--dry-run"])
    assert pruned.exit_code == 2
    assert pruned.output.startswith("error: the family 'odd' lacks logits")


def test_an_unknown_family_is_an_error() -> None:
    result = CliRunner().invoke(main, ["check-family", "lxmer"])
    assert (result.exit_code, result.output.startswith("error: unknown model 'lxmer'")) == (2, True)
