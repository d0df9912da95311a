"""Check and measure the block-sparse kernels on a GPU, in one run of under 8 minutes.

    python bench/gpu_kernels.py --out bench/results/gpu_kernels.json     (or: python -m bench.gpu_kernels)

Needs torch >= 2.11 and triton >= 3.6 and nothing installed: it runs from the working tree. Without a GPU it says so
in one line and exits 0. First the correctness gate: every kernel against float64 on this GPU, with outputs poisoned
by NaN; if it is red, the failures are printed, the exit code is 1 and no figure is written. Then the products of
LXMERT-base, the feed-forward pair and the whole encoder, each beside the dense product, torch.compile, torch's BSR
kernel and 2:4, in turn.

``--dry-run`` walks the same code in Triton's interpreter at tiny sizes and measures nothing (TRITON_INTERPRET=1 is
set for it).
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
"""Relative error against float64; fp32 is multiplied as TF32 here."""


@dataclass(frozen=True)
class Plan:
    """What is measured; ``Plan()`` is the full run."""

    shapes: Sequence[tuple[int, int]] = ((768, 768), (3072, 768), (768, 3072), (2304, 768))
    rows: Sequence[int] = (32, 640, 1152, 4096, 16384)
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9)
    blocks: Sequence[tuple[int, int]] = ((32, 32), (64, 64), (128, 64))
    gate_rows: Sequence[int] = (1, 640, 1153)
    goal_rows: Sequence[int] = (1152, 16384)
    compiled_shapes: Sequence[tuple[int, int]] = ((3072, 768), (768, 3072))
    batches: Sequence[int] = (32, 256)
    encoder: tuple[int, int, int] = (768, 3072, 12)
    layers: tuple[int, int, int] = (9, 5, 5)
    seconds: float = 460.0
    device: str = "cuda"


DRY_PLAN = Plan(
    shapes=((128, 32), (64, 64)),
    rows=(70,),
    sparsities=(0.5,),
    blocks=((16, 16), (32, 16)),
    gate_rows=(33,),
    goal_rows=(70,),
    compiled_shapes=(),
    batches=(1,),
    encoder=(32, 64, 2),
    layers=(1, 1, 1),
    device="cpu",
)

Timer = Callable[[Mapping[str, Sequence[Callable[[], object]]]], dict[str, Any]]


@dataclass
class Run:
    """The state of one run: the plan, the clock, the timer, and what could not be measured."""

    plan: Plan
    timer: Timer
    started: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    def in_time(self, what: str) -> bool:
        """Whether there is time left to start this; if not, it is noted."""
        if time.monotonic() - self.started < self.plan.seconds:
            return True
        self.left_out.append(f"{what}: out of time")
        return False

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """The result, or None with the reason noted: a baseline that cannot run must not end the run."""
        try:
            return make()
        except Exception as error:
            self.left_out.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
            return None


# ---- The correctness gate ----


def gate(plan: Plan) -> list[str]:
    """One line for each check that fails."""
    failures = []
    for name, found, truth in gate_cases(plan):
        tolerance = TOLERANCE[found.dtype]
        error = float((found.double() - truth).norm() / truth.norm().clamp(min=1e-30))
        if not error < tolerance:  # NaN is a failure too
            failures.append(f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}")
    return failures


def gate_cases(plan: Plan) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, result, float64 truth) of every operator, kernel, block and dtype."""
    from vlcompress.kernels.synthetic import random_weight

    for (n, k), block, m in _grid(plan.shapes, plan.blocks, plan.gate_rows):
        # One block in every dtype: each combination is a compile, and the run has minutes.
        for dtype in TOLERANCE if block == plan.blocks[1] else (torch.bfloat16,):
            weight = random_weight((n, k), block, 0.7, dtype, empty_row=0).to(plan.device)
            x, bias = _random(plan, dtype, (m, k), (n,))
            yield from _forward_cases(f"({n},{k}) {block} M={m} {dtype}", weight, x, bias)
            if dtype == torch.bfloat16:
                yield from _backward_cases(f"({n},{k}) {block} M={m}", plan, weight, x)
    yield from _fused_cases(plan)


def _forward_cases(name: str, weight: Any, x: Tensor, bias: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    from vlcompress.kernels import configs, launch, naive
    from vlcompress.kernels.formats import unpack

    w_NK, (n, _) = unpack(weight).double(), weight.pattern.shape
    truth = naive.linear(x.double(), w_NK, bias.double(), "gelu")
    stream = weight.pattern.forward
    product = launch.Product(x, weight.values, stream.walk, stream.cuts, n, bias=bias)
    for config in _gate_configs(configs, x):
        out = torch.full((x.shape[0], n), float("nan"), device=x.device, dtype=x.dtype)
        yield f"{config.kernel} {config.block_m} {name}", launch.run(product, "gelu", config, out), truth


def _gate_configs(configs: Any, x: Tensor) -> Iterator[Any]:
    """Each kernel in a narrow and a wide configuration; TMA needs sm_90."""
    tma = not x.is_cuda or torch.cuda.get_device_capability(x.device) >= (9, 0)
    yield configs.KernelConfig("pointer", 64, 4, 3)
    yield configs.KernelConfig("small", 16, 4, 4, split=3)
    if tma:
        yield configs.KernelConfig("tma", 64, 4, 4)
        yield configs.KernelConfig("tma", 128, 8, 3)


def _backward_cases(name: str, plan: Plan, weight: Any, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    from vlcompress.kernels import naive
    from vlcompress.kernels.block_sparse_linear import input_gradient, values_gradient
    from vlcompress.kernels.formats import unpack

    (dy,) = _random(plan, x.dtype, (x.shape[0], weight.pattern.shape[0]))
    truth = naive.values_gradient(dy.double(), x.double(), weight)
    yield f"dX {name}", input_gradient(dy, weight, "triton"), dy.double() @ unpack(weight).double()
    yield f"dW {name}", values_gradient(dy, x, weight, "triton"), truth


def _fused_cases(plan: Plan) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The feed-forward pair in chunks, and two linears in one launch."""
    from vlcompress.kernels import naive
    from vlcompress.kernels.ffn import block_sparse_feed_forward
    from vlcompress.kernels.formats import unpack
    from vlcompress.kernels.many import block_sparse_linears

    case = feed_forward_case(plan, max(plan.gate_rows), plan.blocks[0], 0.7)
    weights = (case.up, case.down)
    y = block_sparse_feed_forward(
        case.x, case.up, case.up_bias, case.down, case.down_bias, "gelu", case.x, chunk=128, backend="triton"
    )
    w_up, w_down = (unpack(weight).double() for weight in weights)
    h = naive.linear(case.x.double(), w_up, case.up_bias.double(), "gelu")
    yield "ffn", y, naive.linear(h, w_down, case.down_bias.double(), "none", case.x.double())
    xs = _random(plan, torch.bfloat16, *((33 + i, weight.pattern.shape[1]) for i, weight in enumerate(weights)))
    ys = block_sparse_linears(xs, weights, backend="triton")
    for i, (x, w_NK) in enumerate(zip(xs, (w_up, w_down), strict=True)):
        yield f"grouped {i}", ys[i], x.double() @ w_NK.T


# ---- The measurements ----


def measure_linears(run: Run, wanted: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each shape, wanted M, block and sparsity."""
    rows: list[dict[str, Any]] = []
    for m in wanted:
        for shape in run.plan.shapes:
            if run.in_time(f"linear {shape} M={m}"):
                rows += measure_shape(run, shape, m)
    return rows


def measure_shape(run: Run, shape: tuple[int, int], m: int) -> list[dict[str, Any]]:
    """All providers of one shape and M, in turn within the same rounds."""
    from bench import gpu_providers as providers

    base = linear_case(run.plan, shape, m, run.plan.blocks[0], run.plan.sparsities[0])
    calls: dict[str, list[Any]] = {"cublas": _rotating(run, base, providers.cublas)}
    if shape in run.plan.compiled_shapes and m in run.plan.goal_rows:
        _add(run, calls, f"compile {shape} M={m}", "compile", lambda: _rotating(run, base, providers.compiled))
    if run.plan.device == "cuda":
        _add(run, calls, f"2:4 {shape} M={m}", "2:4", lambda: _rotating(run, base, providers.semi_structured))
    cases = {(b, s): linear_case(run.plan, shape, m, b, s) for b in run.plan.blocks for s in run.plan.sparsities}
    for key, case in cases.items():
        calls[f"ours {key}"] = _rotating(run, case, providers.ours)
        if run.plan.device == "cuda" and key[0][0] == key[0][1]:
            _add_torch_bsr(run, calls, key, case)
    times = run.timer(calls)
    return [_row(run.plan, shape, m, key, times) for key in cases]


def _add(run: Run, calls: dict[str, list[Any]], what: str, name: str, make: Callable[[], list[Any]]) -> None:
    """Add a baseline if its first call works."""

    def tried() -> list[Any]:
        made = make()
        made[0]()
        return made

    made = run.attempt(what, tried)
    if made is not None:
        calls[name] = made


def _add_torch_bsr(run: Run, calls: dict[str, list[Any]], key: Any, case: Any) -> None:
    from bench import gpu_providers as providers

    def rotating(stages: int | None) -> list[Any]:
        return _rotating(run, case, lambda case: providers.torch_bsr(case, stages))

    _add(run, calls, f"torch bsr {key}", f"torch bsr default {key}", lambda: rotating(None))
    _add(run, calls, f"torch bsr {key}", f"torch bsr 4 stages {key}", lambda: rotating(4))


def _row(plan: Plan, shape: tuple[int, int], m: int, key: Any, times: Mapping[str, Any]) -> dict[str, Any]:
    """One record: times, ratios over the baselines, and the share of the roofline."""
    block, sparsity = key
    mine = times[f"ours {key}"]
    baselines = {name: times[name] for name in ("cublas", "compile", "2:4") if name in times}
    baselines |= {n: times[f"torch bsr {n} {key}"] for n in ("default", "4 stages") if f"torch bsr {n} {key}" in times}
    floor = floor_us(m, *shape, 1 - sparsity)
    return {
        "n": shape[0], "k": shape[1], "m": m, "block": block, "sparsity": sparsity, "activation": _activation(shape),
        "ours": asdict(mine),
        "baselines": {name: asdict(timing) for name, timing in baselines.items()},
        "ratios": {name: timing.median_us / mine.median_us for name, timing in baselines.items()},
        "roofline_share": None if floor is None or plan.device != "cuda" else floor / mine.median_us,
    }  # fmt: skip


def floor_us(m: int, n: int, k: int, density: float) -> float | None:
    """The roofline of this GPU: the larger of operations over peak and bytes over bandwidth; None for an unknown
    one."""
    from vlcompress.kernels.cost_model import CHIPS

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    chip = next((chip for chip in CHIPS.values() if chip.name.split()[0] in name), None)
    if chip is None:
        return None
    bytes_moved = 2 * (m * k + m * n + n * k * density)
    return max(2 * m * n * k * density / chip.flops, bytes_moved / chip.bandwidth) * 1e6


def measure_feed_forward(run: Run) -> list[dict[str, Any]]:
    """The pair, chunked and in one piece, against dense."""
    from bench import gpu_providers as providers

    rows = []
    for m in (m for m in run.plan.rows if m >= 64):
        for sparsity in run.plan.sparsities:
            if not run.in_time(f"ffn M={m} sparsity={sparsity}"):
                continue
            case = feed_forward_case(run.plan, m, run.plan.blocks[1], sparsity)
            calls: dict[str, list[Any]] = {
                "ours": _rotating(run, case, providers.ours_ffn),
                "ours, one chunk": _rotating(run, case, lambda case: providers.ours_ffn(case, case.x.shape[0])),
                "cublas": _rotating(run, case, providers.cublas_ffn),
            }
            times = run.timer(calls)
            rows.append({"m": m, "sparsity": sparsity, "times": {name: asdict(t) for name, t in times.items()}})
    return rows


def measure_encoder(run: Run) -> list[dict[str, Any]]:
    """LXMERT-base's encoder in CUDA graphs: dense through torch.compile, block-sparse as it is.

    Ours is not compiled, to keep the run short: what torch.compile would fuse around it counts against it here.
    """
    from bench import lxmert_encoder

    hidden, inner, heads = run.plan.encoder
    sizes = lxmert_encoder.Sizes(hidden, inner, heads, run.plan.layers)
    rows = []
    for batch in run.plan.batches:
        if not run.in_time(f"encoder batch {batch}"):
            continue
        x = lxmert_encoder.inputs(batch, sizes, torch.device(run.plan.device), torch.bfloat16)
        calls = {"dense": [_encoder_call(run, sizes, x, None)]}
        calls |= {f"ours {s}": [_encoder_call(run, sizes, x, s)] for s in run.plan.sparsities if s != 0.8}
        rows.append({"batch": batch, "times": {name: asdict(t) for name, t in run.timer(calls).items()}})
    return rows


def _encoder_call(run: Run, sizes: Any, x: tuple[Tensor, Tensor], sparsity: float | None) -> Callable[[], object]:
    from bench.lxmert_encoder import Encoder

    def make(n: int, k: int) -> Any:
        case = linear_case(run.plan, (n, k), 1, run.plan.blocks[1], sparsity or 0.0)
        return dense_linear(case) if sparsity is None else sparse_linear(case)

    encoder: Any = Encoder(make, sizes)
    if run.plan.device == "cuda" and sparsity is None:
        encoder = torch.compile(encoder.__call__, dynamic=False)
    return lambda: encoder(*x)


def dense_linear(case: Any) -> Any:
    """The encoder's linear, dense."""
    from vlcompress.kernels import naive

    return lambda x, activation, residual: naive.linear(x, case.w_NK, case.bias, activation, residual)


def sparse_linear(case: Any) -> Any:
    """The encoder's linear, block-sparse."""
    from vlcompress.kernels.block_sparse_linear import block_sparse_linear

    return lambda x, activation, residual: block_sparse_linear(x, case.weight, case.bias, activation, residual)


# ---- Inputs ----


def linear_case(plan: Plan, shape: tuple[int, int], m: int, block: tuple[int, int], sparsity: float) -> Any:
    """Random inputs of one linear; GELU follows the up-projection."""
    from bench.gpu_providers import Linear
    from vlcompress.kernels.formats import unpack
    from vlcompress.kernels.synthetic import random_weight

    weight = random_weight(shape, block, sparsity, torch.bfloat16).to(plan.device)
    x, bias = _random(plan, torch.bfloat16, (m, shape[1]), (shape[0],))
    return Linear(x, weight, unpack(weight), bias, _activation(shape))


def feed_forward_case(plan: Plan, m: int, block: tuple[int, int], sparsity: float) -> Any:
    """Random inputs of a feed-forward pair at the encoder's widths."""
    from bench.gpu_providers import FeedForward
    from vlcompress.kernels.synthetic import random_weight

    hidden, inner, _ = plan.encoder
    up = random_weight((inner, hidden), block, sparsity, torch.bfloat16).to(plan.device)
    down = random_weight((hidden, inner), block, sparsity, torch.bfloat16, seed=1).to(plan.device)
    x, up_bias, down_bias = _random(plan, torch.bfloat16, (m, hidden), (inner,), (hidden,))
    return FeedForward(x, up, down, up_bias, down_bias)


def _activation(shape: tuple[int, int]) -> str:
    return "gelu" if shape[0] == 4 * shape[1] else "none"


def _random(plan: Plan, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, device=plan.device, dtype=torch.float32).to(dtype) for shape in shapes]


def _rotating(run: Run, case: Any, provider: Callable[[Any], Any]) -> list[Any]:
    """The provider's calls on copies of the case whose inputs exceed the L2 cache together."""
    from vlcompress.kernels import timing

    if run.plan.device != "cuda":
        return [provider(case)]
    count = timing.copies_beyond_cache(2 * case.x.numel(), case.x.device)
    return [provider(replace(case, x=case.x.clone())) for _ in range(count)]


def _grid(*axes: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    import itertools

    return itertools.product(*axes)


# ---- The record ----


def environment() -> dict[str, Any]:
    """Device, driver, clocks, versions, commit and time."""
    import triton

    query = "name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    return {
        "nvidia_smi": {query: _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")},
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def no_timer(providers: Mapping[str, Sequence[Callable[[], object]]]) -> dict[str, Any]:
    """The timer of a dry run: makes each call once and measures nothing."""
    from vlcompress.kernels.timing import Timing

    for calls in providers.values():
        for call in calls:
            call()
    return dict.fromkeys(providers, Timing(float("nan"), float("nan"), 0))


def run_all(run: Run) -> dict[str, Any]:
    """Everything but the gate; what the goals speak of comes first, should the time run out."""
    plan, before = run.plan, environment()
    with torch.no_grad():
        linears = measure_linears(run, plan.goal_rows)
        results = {
            "feed_forward": run.attempt("feed forward", lambda: measure_feed_forward(run)),
            "encoder": run.attempt("encoder", lambda: measure_encoder(run)),
            "linears": linears + measure_linears(run, [m for m in plan.rows if m not in plan.goal_rows]),
        }
    seconds = round(time.monotonic() - run.started, 1)
    record = {"measured": plan.device == "cuda", "before": before, "after": environment(), "seconds": seconds}
    return {**record, "left_out": run.left_out, **results}


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write the record whole or not at all; a time that was not measured is null."""
    text = json.dumps(record, indent=1, default=str).replace("NaN", "null")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(path)
    print(f"{path}: {len(record['linears'])} products, {len(record['left_out'])} left out, {record['seconds']} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Gate, measure, write; the exit code is 1 only for a red gate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "gpu_kernels.json")
    parser.add_argument("--dry-run", action="store_true", help="walk the code at tiny sizes without a GPU; no figures")
    options = parser.parse_args(arguments)
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 0
    plan = DRY_PLAN if options.dry_run else Plan()
    from vlcompress.kernels import timing

    run = Run(plan, no_timer if options.dry_run else timing.interleaved)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    failures = gate(plan)
    if failures:
        print(f"the correctness gate is red, no figure is written; {len(failures)} failures:", *failures[:40], sep="\n")
        return 1
    write(run_all(run), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
