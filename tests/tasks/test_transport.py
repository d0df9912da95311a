"""The transport distance: IPOT as published, one example at a time and without padding, and what a plan must be."""

import math

import torch
from torch import Tensor

from vlcompress.tasks.transport import _plan, transport_distance


def _alone(words: list[list[float]], parts: list[list[float]]) -> float:
    """Xie et al., algorithm 1, in plain Python: cost / 0.5, 50 outer steps, 1 inner, uniform marginals."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    n, m = len(words), len(parts)
    cost = [[1 - cosine(word, part) for part in parts] for word in words]
    kernel = [[math.exp(-value / 0.5) for value in row] for row in cost]
    plan, sigma = [[1.0] * m for _ in range(n)], [1 / n] * n
    for _ in range(50):
        q = [[kernel[i][j] * plan[i][j] for j in range(m)] for i in range(n)]
        delta = [1 / (m * sum(q[i][j] * sigma[i] for i in range(n))) for j in range(m)]
        sigma = [1 / (n * sum(q[i][j] * delta[j] for j in range(m))) for i in range(n)]
        plan = [[sigma[i] * q[i][j] * delta[j] for j in range(m)] for i in range(n)]
    return sum(cost[i][j] * plan[i][j] for i in range(n) for j in range(m))


def _case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    words, parts = torch.randn(3, 5, 8, generator=generator), torch.randn(3, 7, 8, generator=generator)
    words_there = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    parts_there = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0, 0], [1] * 7]).bool()
    return words, parts, words_there, parts_there


def test_each_example_is_that_of_the_published_algorithm_alone() -> None:
    words, parts, words_there, parts_there = _case()
    distances = transport_distance(words, parts, words_there, parts_there)
    for row in range(3):
        expected = _alone(words[row][words_there[row]].tolist(), parts[row][parts_there[row]].tolist())
        assert abs(distances[row].item() - expected) < 1e-5


def test_the_plan_moves_all_weight_and_none_to_padding() -> None:
    _words, _parts, words_there, parts_there = _case()
    both = words_there[:, :, None] & parts_there[:, None]
    plan = _plan(1 - torch.rand(3, 5, 7) * both, both, words_there, parts_there)
    assert not plan[~both].any()
    torch.testing.assert_close(plan.sum((1, 2)), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(plan.sum(2), words_there / words_there.sum(1, keepdim=True), atol=1e-4, rtol=0)


def test_the_gradient_lowers_the_distance() -> None:
    words, parts, words_there, parts_there = _case()
    words.requires_grad_()
    before = transport_distance(words, parts, words_there, parts_there).sum()
    before.backward()
    assert words.grad is not None
    assert not words.grad[~words_there].any()
    with torch.no_grad():
        after = transport_distance(words - 0.05 * words.grad, parts, words_there, parts_there).sum()
    assert after < before
