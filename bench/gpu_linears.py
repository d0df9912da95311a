"""The GPU script's products: which configurations they run in, each checked against float64, then timed.

Legend: M rows of the input, N out features, K in features.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from vlcompress.kernels import naive, timing
from vlcompress.kernels.block_sparse_linear import block_sparse_linear, input_gradient, values_gradient
from vlcompress.kernels.formats import BlockSparseWeight, pack, unpack
from vlcompress.kernels.synthetic import masked, random_mask

if TYPE_CHECKING:
    from bench.gpu import Json, Run

Call = Callable[[], Any]

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 2e-3}
"""Largest error of a row or a column of a result relative to float64; fp32 is multiplied as TF32 here."""
EPILOGUES = (("gelu", False), ("gelu_tanh", False), ("relu", False), ("none", True))
"""(activation, residual) that each block is checked with, beside those that are timed."""
CEILINGS = {
    "A100": (0.8 * 312e12, 0.8 * 2.04e12),
    "H200": (790e12, 4.3e12),
    "H100": (0.8 * 989e12, 0.8 * 3.35e12),
    "B200": (0.8 * 2250e12, 0.8 * 8.0e12),
}
"""bf16 operations and bytes from memory a second, by a word of the device's name: an H200's as measured (a product of
8192 x 8192 x 8192, a copy on the device), 80 % of the published peaks of the others."""


@dataclass(frozen=True)
class Case:
    """One product: the weight's shape, block, sparsity and row skew; what runs, and its epilogue.

    Attributes:
        direction: "forward", "dX" or "dW".
    """

    m: int
    n: int
    k: int
    block: tuple[int, int]
    sparsity: float
    skew: float = 0.0
    activation: str = "none"
    residual: bool = False
    direction: str = "forward"


@dataclass(frozen=True)
class Tensors:
    """A case's tensors: x [M, K], y (dY or residual) [M, N], weight [N, K] in blocks, bias [N]."""

    x: Tensor
    y: Tensor
    weight: BlockSparseWeight
    bias: Tensor


def timed_cases(run: "Run") -> Iterator[Case]:
    """Yield every product of the step "linears"."""
    scale = run.scale
    for m, (n, k, activation) in itertools.product(scale.rows, scale.shapes):
        for block, sparsity, skew in itertools.product(scale.blocks, scale.sparsities, scale.skews):
            yield Case(m, n, k, block, sparsity, skew, activation)


def gated_cases(run: "Run") -> Iterator[Case]:
    """Yield what is timed, other epilogues, and the gradients."""
    yield from timed_cases(run)
    m, (n, k, _) = run.scale.rows[0], run.scale.shapes[0]
    for block, (activation, residual) in itertools.product(run.scale.blocks, EPILOGUES):
        yield Case(m + 1, n, k, block, 0.7, 0.0, activation, residual)
    for block, direction in itertools.product(run.scale.blocks, ("dX", "dW")):
        yield Case(m + 1, n, k, block, 0.7, direction=direction)


def gate(run: "Run") -> None:
    """Check every configuration that those products run in, once each."""
    for case in gated_cases(run):
        check(run, case)


def check(run: "Run", case: Case, weight: BlockSparseWeight | None = None) -> bool:
    """Tell whether a case's configuration computes the right values; checked at the first case that has it.

    Args:
        weight: [N, K] in place of the case's random one, on the device and in the dtype of the scale.
    """
    tensors = tensors_of(run, case, weight)
    key = configuration(tensors, case)
    run.unit(key, lambda: verdict(run, tensors, case), 2.0, step="gate")
    unit = run.units("gate")[key]
    return bool(unit.get("result", {}).get("green", False))


def configuration(tensors: Tensors, case: Case) -> str:
    """Name the machine code that a case runs: kernel, tile, block, direction, epilogue, and whether outputs split."""
    from vlcompress.kernels import launch

    names = f"{case.block[0]}x{case.block[1]} {case.direction} {case.activation}{' residual' * case.residual}"
    if case.direction == "dW":
        # From 512 rows on their number changes nothing: they are split in 8 parts of at least 64 at the most.
        return f"dW {case.block[0]}x{case.block[1]} M={min(case.m, 512)} ({case.n}, {case.k}) {case.sparsity}"
    transposed = case.direction == "dX"
    pattern = tensors.weight.pattern
    work_list = pattern.transposed if transposed else pattern.forward
    x, width = (tensors.y, case.k) if transposed else (tensors.x, case.n)
    product = launch.Product(
        x, tensors.weight.values, work_list.steps, work_list.cuts, work_list.longest, width, transposed,
        None if transposed else tensors.bias, tensors.y if case.residual else None,
    )  # fmt: skip
    config, cut = launch.cheapest_cut(product, launch.fitted(launch.table_config(product), product))
    tile = f"{config.kernel} {config.block_m} rows {config.warps} warps {config.stages} stages"
    return f"{tile} {names}{' outputs split' * cut.splits_outputs}"


def verdict(run: "Run", tensors: Tensors, case: Case) -> "Json":
    """Compare a case with float64, its memory poisoned with NaN, and its repeats with each other."""
    call, truth = product_of(tensors, case), truth_of(tensors, case)
    with poisoned():
        found = call()
        same = all(torch.equal(call(), found) for _ in range(run.scale.repeats))
    error, allowed = worst_error(found, truth), TOLERANCE[found.dtype]
    good = same and error < allowed  # NaN is not below
    return {"green": good, "error": error if error == error else "NaN", "allowed": allowed, "identical": same}


def worst_error(found: Tensor, truth: Tensor) -> float:
    """Measure the largest error of a row or a column of [M, N], relative to the average row or column."""
    found, truth = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (found.double(), truth))
    norms = [((found - truth).norm(dim=dim), truth.norm(dim=dim)) for dim in (0, 1)]
    return max(float((error / of.clamp(min=float(of.mean()))).max()) for error, of in norms)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that nobody has written with NaN, inside the block."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def product_of(tensors: Tensors, case: Case) -> Call:
    """Bind the operator that a case is about to its tensors."""
    if case.direction == "dX":
        return partial(input_gradient, tensors.y, tensors.weight, "triton")
    if case.direction == "dW":
        return partial(values_gradient, tensors.y, tensors.x, tensors.weight, "triton")
    residual = tensors.y if case.residual else None
    return partial(block_sparse_linear, tensors.x, tensors.weight, tensors.bias, case.activation, residual, "triton")


def truth_of(tensors: Tensors, case: Case) -> Tensor:
    """Compute the same in float64, by torch alone."""
    x, y, bias = (tensor.double() for tensor in (tensors.x, tensors.y, tensors.bias))
    weight = tensors.weight
    if case.direction == "dX":
        return y @ unpack(weight).double()
    if case.direction == "dW":
        return naive.values_gradient(y, x, weight)
    return naive.linear(x, unpack(weight).double(), bias, case.activation, y if case.residual else None)


def tensors_of(run: "Run", case: Case, weight: BlockSparseWeight | None = None) -> Tensors:
    """Make a case's tensors on the device; the last ones are kept."""
    device, dtype = run.scale.device, getattr(torch, run.scale.dtype)
    x, y = (_random(case.m, width, device, dtype) for width in (case.k, case.n))
    if weight is None:
        weight = _weight(case.n, case.k, case.block, case.sparsity, case.skew, device, dtype)
    return Tensors(x, y, weight, _random(1, case.n, device, dtype)[0])


@lru_cache(8)
def _random(rows: int, width: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(device, dtype)


@lru_cache(256)
def _weight(
    n: int, k: int, block: tuple[int, int], sparsity: float, skew: float, device: str, dtype: torch.dtype
) -> BlockSparseWeight:
    mask = random_mask((n, k), block, sparsity, skew=skew)
    w_NK = torch.randn(n, k, generator=torch.Generator().manual_seed(0)) / k**0.5
    return pack(masked(w_NK, mask).to(dtype), block, mask).to(device)


# ---- Times ----


def linears(run: "Run") -> None:
    """Time every shape and M in each block, sparsity and skew beside the baselines, in the same rounds."""
    for _, cases in itertools.groupby(timed_cases(run), lambda case: (case.m, case.n, case.k, case.activation)):
        together = list(cases)
        one = together[0]
        run.unit(f"({one.n}, {one.k}) {one.activation} M={one.m}", partial(measure, run, together), 5.0)


def measure(run: "Run", cases: list[Case]) -> list["Json"]:
    """Time each case whose configuration is right: a row each."""
    dense = replace(cases[0], sparsity=0.0, skew=0.0)
    calls: dict[str, list[Call]] = {}
    for name, baseline in {"cublas": cublas, "2:4": semi_structured}.items():
        _add(run, calls, name, dense, baseline)
    able = {_name(case): case for case in cases if check(run, case)}
    for name, case in able.items():
        _add(run, calls, name, case, ours)
        for stages in (None, 4) if case.block[0] == case.block[1] else ():
            _add(run, calls, f"{_bsr(stages)} {name}", case, partial(torch_bsr, stages=stages))
    times = run.graphed(f"({dense.n}, {dense.k}) M={dense.m}", calls)
    return [_row(run, case, times) for name, case in able.items() if name in times]


def _add(
    run: "Run", calls: dict[str, list[Call]], name: str, case: Case, provider: Callable[[Tensors, Case], Call]
) -> None:
    """Add a provider's calls on copies of the input that exceed the L2 cache together."""
    made = run.attempt(f"{name} ({case.n}, {case.k}) M={case.m}", lambda: rotating(run, case, provider))
    if made is not None:
        calls[name] = made


def rotating(run: "Run", case: Case, provider: Callable[[Tensors, Case], Call]) -> list[Call]:
    """Bind a provider to each copy of the input."""
    tensors = tensors_of(run, case)
    if run.dry:
        return [provider(tensors, case)]
    count = timing.copies_beyond_cache(tensors.x.numel() * tensors.x.element_size(), tensors.x.device)
    return [provider(replace(tensors, x=tensors.x.clone()), case) for _ in range(count)]


def _row(run: "Run", case: Case, times: dict[str, Any]) -> "Json":
    name = _name(case)
    names = {"cublas": "cublas", "2:4": "2:4", **{_bsr(s): f"{_bsr(s)} {name}" for s in (None, 4)}}
    baselines = {shown: times[other] for shown, other in names.items() if other in times}
    mine = times[name]
    over = {shown: _ratio(other, mine) for shown, other in baselines.items()}
    floor = None if mine is None else floor_us(case)
    share, ran = floor and floor / mine["median_us"], configuration(tensors_of(run, case), case)
    return {
        "n": case.n, "k": case.k, "m": case.m, "activation": case.activation, "block": list(case.block),
        "sparsity": case.sparsity, "skew": case.skew, "over": over, "ours": mine, **baselines,
        "configuration": ran, "roofline_share": share,
    }  # fmt: skip


def _ratio(baseline: Any, mine: Any) -> float | None:
    return None if baseline is None or mine is None else baseline["median_us"] / mine["median_us"]


def floor_us(case: Case) -> float | None:
    """Take the larger of operations over the chip's peak and bytes over its bandwidth; None for an unknown chip."""
    device = torch.cuda.get_device_name()
    ceiling = next((of for name, of in CEILINGS.items() if name in device), None)
    if ceiling is None:
        return None
    flops, bandwidth = ceiling
    stored = case.n * case.k * (1 - case.sparsity)
    bytes_moved = 2 * (case.m * case.k + case.m * case.n + stored)
    return max(2 * case.m * stored / flops, bytes_moved / bandwidth) * 1e6


def _name(case: Case) -> str:
    return f"{case.block[0]}x{case.block[1]} {case.sparsity} skew {case.skew}"


def _bsr(stages: int | None) -> str:
    return "torch bsr" if stages is None else f"torch bsr {stages} stages"


# ---- Who is timed. A baseline that cannot run here raises; the record says why. ----


def ours(tensors: Tensors, case: Case) -> Call:
    """Run the block-sparse kernels with the table's configuration."""
    return product_of(tensors, case)


def cublas(tensors: Tensors, case: Case) -> Call:
    """Run F.linear, and the activation as a kernel of its own where there is one."""
    w_NK = unpack(tensors.weight)
    return lambda: naive.activate(functional.linear(tensors.x, w_NK, tensors.bias), case.activation)


def semi_structured(tensors: Tensors, case: Case) -> Call:
    """Run 2:4 by cuSPARSELt: always 50 %, of whichever elements the format keeps; its result is not compared."""
    from torch.sparse import to_sparse_semi_structured

    keep = torch.tensor([1, 1, 0, 0], device=tensors.x.device, dtype=tensors.x.dtype)
    w_NK: Any = to_sparse_semi_structured(unpack(tensors.weight) * keep.repeat(case.k // 4))
    return lambda: naive.activate(functional.linear(tensors.x, w_NK, tensors.bias), case.activation)


def torch_bsr(tensors: Tensors, case: Case, stages: int | None) -> Call:
    """Run torch's own BSR kernel, with its table's setting or with a pipeline of `stages`."""
    from torch.sparse import _triton_ops as operators

    bsr = unpack(tensors.weight).to_sparse_bsr(case.block)
    bias = tensors.bias[:, None].expand(case.n, case.m).contiguous()
    run: Any = operators.bsr_dense_addmm
    meta = _bsr_meta(operators, case, stages)

    def call() -> Tensor:
        y = run(bias, bsr, tensors.x.T, skip_checks=True, meta=None if meta is None else dict(meta)).T
        return naive.activate(y, case.activation)

    return call


def _bsr_meta(operators: Any, case: Case, stages: int | None) -> "Json | None":
    """Choose the launch settings; torch's own choice would split fewer than 64 rows in 0 parts."""
    asked: Json = {} if stages is None else {"num_stages": stages}
    if case.m < 64:
        asked["SPLIT_N"] = 1
    if not asked:
        return None
    meta: Json = operators.bsr_dense_addmm_meta(case.n, case.k, case.m, *case.block, 1, 1, **asked)
    return meta
