"""Optimal transport: the plan's margins, the best plan where it is known, and no influence of padding."""

import itertools
import math

import torch

from vlcompress.models.transport import transport_distance, transport_plan


def _all(rows: int, size: int) -> torch.Tensor:
    return torch.ones(rows, size, dtype=torch.bool)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_margins_are_uniform() -> None:
    plan = transport_plan(_random(3, 6, 4).abs(), _all(3, 6), _all(3, 4))
    torch.testing.assert_close(plan.sum(dim=2), torch.full((3, 6), 1 / 6))  # the side that is scaled last, exactly
    torch.testing.assert_close(plan.sum(dim=1), torch.full((3, 4), 1 / 4), atol=2e-3, rtol=0)


def test_square_costs_give_the_best_assignment() -> None:
    cost = _random(5, 4, 4, seed=1).abs()
    plan = transport_plan(cost, _all(5, 4), _all(5, 4), iterations=2000)
    for row in range(5):
        best = min(
            sum(float(cost[row, word, region]) for word, region in enumerate(order))
            for order in itertools.permutations(range(4))
        )
        assert abs(float((plan[row] * cost[row]).sum()) - best / 4) < 1e-3


def test_padding_changes_nothing() -> None:
    text, image = _random(1, 5, 8), _random(1, 3, 8, seed=1)
    alone = transport_distance(text, image, _all(1, 5), _all(1, 3))
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 2), value=9.0) for x in (text, image)]
    masks = [torch.nn.functional.pad(_all(1, size), (0, 2)) for size in (5, 3)]
    torch.testing.assert_close(transport_distance(*padded, *masks), alone)


def test_distance_falls_along_its_gradient_and_is_zero_for_the_same_set() -> None:
    text, image = _random(2, 4, 8).requires_grad_(), _random(2, 6, 8, seed=1)
    distance = transport_distance(text, image, _all(2, 4), _all(2, 6))
    (slope,) = torch.autograd.grad(distance.sum(), text)
    closer = transport_distance(text - 0.5 * slope, image, _all(2, 4), _all(2, 6))
    assert (closer < distance).all()
    same = transport_distance(image, image.flip(1), _all(2, 6), _all(2, 6))
    assert (same < 0.02).all()
    assert (distance > 0.3).all()


def _alone(words: list[list[float]], parts: list[list[float]]) -> float:
    """Xie et al., algorithm 1, in plain Python: cost / 0.5, 50 outer steps, 1 inner, uniform margins."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    n, m = len(words), len(parts)
    cost = [[1 - cosine(word, part) for part in parts] for word in words]
    plan, left = [[1.0] * m for _ in range(n)], [1 / n] * n
    for _ in range(50):
        q = [[math.exp(-cost[i][j] / 0.5) * plan[i][j] for j in range(m)] for i in range(n)]
        right = [1 / (m * sum(q[i][j] * left[i] for i in range(n))) for j in range(m)]
        left = [1 / (n * sum(q[i][j] * right[j] for j in range(m))) for i in range(n)]
        plan = [[left[i] * q[i][j] * right[j] for j in range(m)] for i in range(n)]
    return sum(cost[i][j] * plan[i][j] for i in range(n) for j in range(m))


def test_each_example_of_a_padded_batch_is_that_of_the_published_algorithm_alone() -> None:
    words, parts = _random(3, 5, 8, seed=3), _random(3, 7, 8, seed=4)
    words_there = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    parts_there = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0, 0], [1] * 7]).bool()
    distances = transport_distance(words, parts, words_there, parts_there)
    for row in range(3):
        expected = _alone(words[row][words_there[row]].tolist(), parts[row][parts_there[row]].tolist())
        assert abs(distances[row].item() - expected) < 1e-5
