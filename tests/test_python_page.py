"""The examples of docs/python.md run as they stand there, and the names in its table are offered."""

import re
from pathlib import Path

import pytest

import vlcompress

PAGE = (Path(__file__).parents[1] / "docs/python.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loop", r"(\d+ of \d+ (head|neuron)s stay before \S+\n){4}largest difference \S+, scores \(64, 2\)\n$"),
        ("trainer", r"(vit\.\S+ \d+% pruned: (dense|grouped), .+\n)+$"),
    ],
)
def test_an_example_runs(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[name], f"docs/python.md ({name})", "exec"), {})
    assert re.search(said, capsys.readouterr().out)


def test_every_function_in_the_table_is_offered() -> None:
    rows = re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)
    assert {*rows} == {*vlcompress._PLACES} - {"Masks", "VlcompressError"}
