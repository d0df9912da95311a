"""Repaired layers against least squares by a library, for every pattern, with and without a bias."""

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import make_blocky
from vlcompress.pruning.repair import DAMPING, Moments, least_squares, repair

RNG = torch.Generator().manual_seed(3)
ROWS, INPUTS, OUTPUTS = 400, 24, 8
X = torch.randn(ROWS, INPUTS, generator=RNG) @ torch.randn(INPUTS, INPUTS, generator=RNG) + 0.5
MASKS = {
    "unstructured": torch.rand(OUTPUTS, INPUTS, generator=RNG) > 0.6,
    "block": make_blocky(OUTPUTS, INPUTS, (4, 4), 0.5),
    "inputs": (torch.rand(INPUTS, generator=RNG) > 0.5).expand(OUTPUTS, INPUTS).clone(),
    "a row of zeros": torch.ones(OUTPUTS, INPUTS, dtype=torch.bool).index_fill_(0, torch.tensor([2]), False),
}


def moments(*, bias: bool) -> Moments:
    return Moments(X.mean(dim=0), X.T @ X / ROWS, bias)


def exact(weight: Tensor, mask: Tensor, of: Moments) -> Tensor:
    """Solve each row alone, from a square root of H."""
    root = torch.linalg.cholesky(of.hessian.double()).T
    solved = torch.zeros_like(weight, dtype=torch.float64)
    for row, kept in enumerate(mask):
        if kept.any():
            solved[row, kept] = torch.linalg.lstsq(root[:, kept], root @ weight[row].double()).solution
    return solved.float()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
def test_kept_weights_are_those_of_least_squares(mask: Tensor, *, bias: bool) -> None:
    weight, of = torch.randn(OUTPUTS, INPUTS, generator=RNG), moments(bias=bias)
    found = least_squares(weight, mask, of.hessian)
    assert (found[~mask] == 0).all()

    def lost(of_weight: Tensor) -> Tensor:
        off = (of_weight - weight).double()
        return (off @ of.hessian.double() * off).sum(dim=1)

    best = exact(weight, mask, of)
    assert torch.allclose(lost(found), lost(best), rtol=1e-2, atol=1e-5)
    assert (lost(found) <= lost(weight * mask) + 1e-6).all()


def test_a_repaired_layer_gives_the_mean_of_the_dense_one_and_less_error_than_zeros_alone() -> None:
    mask = MASKS["inputs"]
    dense, mended = nn.Sequential(nn.Linear(INPUTS, OUTPUTS)), nn.Sequential(nn.Linear(INPUTS, OUTPUTS))
    mended.load_state_dict(dense.state_dict())
    repair(mended, {"0.weight": mask}, {"0.weight": moments(bias=True)})
    zeroed = X @ (dense[0].weight * mask).T + dense[0].bias
    assert torch.allclose(mended(X).mean(dim=0), dense(X).mean(dim=0), atol=1e-4)
    assert (mended(X) - dense(X)).square().mean() < 0.7 * (zeroed - dense(X)).square().mean()
    assert (mended[0].weight[~mask].view(torch.int32) == 0).all()


def test_a_layer_that_nothing_goes_into_keeps_its_weights() -> None:
    nothing = Moments(torch.zeros(INPUTS), torch.zeros(INPUTS, INPUTS), True)
    weight, mask = torch.randn(OUTPUTS, INPUTS, generator=RNG), MASKS["unstructured"]
    assert torch.allclose(least_squares(weight, mask, nothing.hessian), weight * mask)


def test_damping_is_a_share_of_the_mean_of_the_diagonal() -> None:
    plain = X.T @ X / ROWS
    added = moments(bias=False).hessian - plain
    assert torch.allclose(added, torch.eye(INPUTS) * DAMPING * plain.diagonal().mean(), atol=1e-3)
