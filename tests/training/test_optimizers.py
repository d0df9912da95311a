import pytest
import torch

from vlcompress.training.optimizers import AdamW, BertAdam, Sgd, rate, warmup_linear


def test_two_steps_by_hand() -> None:
    """m and v without bias correction, decay on the weight itself, the gradient clipped to norm 1."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = BertAdam([weight], lr=0.1)
    w, m, v = 2.0, 0.0, 0.0
    for gradient in (0.5, 30.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        g = min(gradient, 1.0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.1 * (m / (v**0.5 + 1e-6) + 0.01 * w)
        assert weight.item() == pytest.approx(w, rel=1e-5)


def test_two_steps_of_adamw_by_hand() -> None:
    """Both moments corrected for their start at zero, eps beside the uncorrected root, then the decay."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = AdamW([weight], lr=0.1)
    w, m, v = 2.0, 0.0, 0.0
    for t, g in enumerate((0.5, 30.0), start=1):
        weight.grad = torch.tensor([g])
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        w -= 0.1 * (1 - 0.98**t) ** 0.5 / (1 - 0.9**t) * m / (v**0.5 + 1e-6)
        w -= 0.1 * 0.01 * w
        assert weight.item() == pytest.approx(w, rel=1e-5)


def test_warmup_rises_then_falls_to_zero() -> None:
    assert [round(warmup_linear(step, 10, 0.2), 3) for step in range(11)] == [
        0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0,
    ]  # fmt: skip


def test_two_steps_of_sgd_by_hand() -> None:
    """Decay joins the gradient, and the momentum takes the sum whole."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Sgd([weight], lr=0.1, weight_decay=0.5)
    w, m = 2.0, 0.0
    for g in (0.5, -3.0):
        weight.grad = torch.tensor([g])
        optimizer.step()
        m = 0.9 * m + g + 0.5 * w
        w -= 0.1 * m
        assert weight.item() == pytest.approx(w, rel=1e-5)


def test_the_rate_of_sgd_falls_in_steps_and_of_the_others_on_a_line() -> None:
    epochs = [rate("sgd", epoch, 182, 1 / 182) for epoch in range(183)]
    assert epochs[:2] == [0.0, 1.0]
    assert [round(epochs[epoch], 6) for epoch in (91, 92, 136, 137, 182)] == [1.0, 0.1, 0.1, 0.01, 0.01]
    assert rate("adamw", 91, 182, 0.1) == warmup_linear(91, 182, 0.1)
