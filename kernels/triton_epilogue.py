"""What every kernel does with a finished fp32 tile before it is stored: bias, activation, residual.

y = act(acc + bias) + residual, in fp32, rounded once on the store.

Activation codes (a constexpr, so that each kernel holds one of them):

    0 none | 1 GELU by erf | 2 GELU by a fitted tanh | 3 tanh-GELU | 4 ReLU

Code 2 replaces erf where the output is fp16 or bf16. tl.erf costs 33 machine instructions an element, more than a short
sparse main loop does for the whole tile; the fit costs 9. It is ½z(1 + tanh(z(a + bz² + cz⁴))) with a, b, c fitted
to the exact form: at most 2.6e-5 away from it for every z, before the error of the hardware's tanh (2⁻¹¹ relative).
"""

import torch
import triton
import triton.language as tl

_FIT_A = tl.constexpr(0.797506586375279)
_FIT_B = tl.constexpr(0.037006827109724694)
_FIT_C = tl.constexpr(-0.0003517086386240541)
_FIT_CLAMP = tl.constexpr(64.0)  # of z²: the quintic turns over near |z| = 11, and tanh is 1 long before
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_SQRT_2_OVER_PI = tl.constexpr(0.7978845608028654)


def activation_code(activation: str, dtype: torch.dtype) -> int:
    """Look up the kernels' code of an activation; fp32 outputs keep the exact erf."""
    if activation == "gelu":
        return 1 if dtype == torch.float32 else 2
    return {"none": 0, "gelu_tanh": 3, "relu": 4}[activation]


@triton.jit
def tanh(u, HARDWARE_TANH: tl.constexpr):
    """tanh(u); by the hardware's one instruction, or by exp where there is none (the interpreter)."""
    if HARDWARE_TANH:
        t = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1)
    else:
        t = 2.0 / (1.0 + tl.exp(-2.0 * u)) - 1.0
    return t


@triton.jit
def activate(z, ACTIVATION: tl.constexpr, HARDWARE_TANH: tl.constexpr):
    """act(z) for z of any shape in fp32."""
    if ACTIVATION == 1:
        z = 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
    elif ACTIVATION == 2:
        square = tl.minimum(z * z, _FIT_CLAMP)
        z = 0.5 * z * (1.0 + tanh(z * (_FIT_A + square * (_FIT_B + square * _FIT_C)), HARDWARE_TANH))
    elif ACTIVATION == 3:
        z = 0.5 * z * (1.0 + tanh(z * _SQRT_2_OVER_PI * (1.0 + 0.044715 * z * z), HARDWARE_TANH))
    elif ACTIVATION == 4:
        z = tl.where(z < 0.0, 0.0, z)  # not maximum, which would make a 0 of NaN
    return z


@triton.jit
def finish(
    acc_MN,
    bias_ptr,
    residual_ptr,
    offs_m,
    offs_n,
    stride_rm,
    M,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
):
    """act(acc + bias) + residual for one tile [BLOCK_M, BLOCK_N] in fp32; rows from M on are not read.

    Args:
        offs_m: int64 [BLOCK_M], rows of the output.
        offs_n: int [BLOCK_N], columns of the output.
        stride_rm: elements between rows of the residual.
    """
    if HAS_BIAS:
        acc_MN += tl.load(bias_ptr + offs_n).to(tl.float32)[None, :]
    acc_MN = activate(acc_MN, ACTIVATION, HARDWARE_TANH)
    if HAS_RESIDUAL:
        at = residual_ptr + offs_m[:, None] * stride_rm + offs_n[None, :]
        acc_MN += tl.load(at, mask=offs_m[:, None] < M, other=0.0).to(tl.float32)
    return acc_MN


@triton.jit
def store_output(
    acc_MN,
    y_ptr,
    bias_ptr,
    residual_ptr,
    offs_m,
    offs_n,
    stride_rm,
    M,
    N,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
):
    """Finish one tile and store it by pointers in Y [M, N], contiguous; arguments as for `finish`."""
    done = finish(
        acc_MN, bias_ptr, residual_ptr, offs_m, offs_n, stride_rm, M,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
    )  # fmt: skip
    y_at = y_ptr + offs_m[:, None] * N + offs_n[None, :]
    tl.store(y_at, done.to(y_ptr.dtype.element_ty), mask=offs_m[:, None] < M)
