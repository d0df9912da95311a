"""The environment record says what matters and nothing private."""

import getpass
import json
import platform
from pathlib import Path

import torch

from vlcompress.bench.environment import environment


def test_the_record_is_json_and_names_the_versions() -> None:
    record = json.loads(json.dumps(environment()))
    assert record["packages"]["torch"] == torch.__version__
    assert record["python"] == platform.python_version()
    assert record["cores"] >= 1
    assert record["cpu"]


def test_the_record_holds_no_host_name_and_no_path() -> None:
    text = json.dumps(environment())
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert getpass.getuser() not in json.dumps(list(environment().values()))
