"""What the host does before a kernel starts: on which device, with which plan."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlcompress.kernels import configs
from vlcompress.kernels.synthetic import random_weight


@pytest.fixture
def product(interpreted: Any) -> Any:
    weight = random_weight((64, 64), (16, 16), 0.5)
    work_list = weight.pattern.forward
    return interpreted.Product(
        torch.randn(5, 64), weight.values, work_list.steps, work_list.cuts, tuple(work_list.longest), 64
    )


def test_kernels_start_on_the_device_of_x(interpreted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    for index in (0, 1):
        with interpreted.on_device_of(SimpleNamespace(device=torch.device("cuda", index))):
            pass
    with interpreted.on_device_of(torch.zeros(1)):
        pass
    assert entered == [torch.device("cuda", 1)]


def test_a_plan_is_made_once_for_products_of_a_kind(
    interpreted: Any, product: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    config_for = configs.config_for
    monkeypatch.setattr(interpreted, "_plans", {})
    monkeypatch.setattr(configs, "config_for", lambda *key: looked_up.append(key[4]) or config_for(*key))
    longer = dataclasses.replace(product, x=torch.randn(700, 64))
    plans = [interpreted.planned(each) for each in (product, longer, product, longer)]
    assert looked_up == [5, 700]
    assert plans[0] == plans[2]
    assert plans[1] == plans[3]
    assert plans[0] == interpreted.cheapest_cut(product, interpreted.fitted(interpreted.table_config(product), product))


def test_a_table_that_is_written_reaches_products_that_have_a_plan(
    interpreted: Any, product: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(configs.TABLES_VARIABLE, str(tmp_path))
    before, _ = interpreted.planned(product)
    tuned = configs.KernelConfig("pointer", 128, 8, 2)
    entry = configs.Entry(64, 64, (16, 16), 5, 0.5, tuned, sparse_us=1.0, dense_us=2.0)
    configs.write_table(tmp_path / "sm_80.json", "sm_80", [entry], {"source": "a test"})
    after, _ = interpreted.planned(product)
    assert before != after == interpreted.fitted(tuned, product)


@pytest.mark.parametrize("unfenced", [True, False])
def test_from_sm_90_on_no_kernel_copies_without_a_fence(
    unfenced: bool, interpreted: Any, product: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreted, "INTERPRETED", False)
    monkeypatch.setattr(interpreted, "UNFENCED", unfenced)
    monkeypatch.setattr(interpreted, "table_of", lambda device: "sm_90-h100")
    small = interpreted.fitted(configs.KernelConfig("small", 16, 4, 4), product)
    assert small == (configs.KernelConfig("tma", 64, 4, 4) if unfenced else configs.KernelConfig("small", 16, 4, 4))
    pointer = interpreted.fitted(configs.KernelConfig("pointer", 64, 4, 4), product)
    assert pointer.stages == (1 if unfenced else 4)
    monkeypatch.setattr(interpreted, "table_of", lambda device: "sm_80")
    assert interpreted.fitted(configs.KernelConfig("pointer", 64, 4, 4), product).stages == 4
