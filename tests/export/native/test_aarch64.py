"""The kernel on ARM64, compiled by a cross-compiler and run by an emulator: right answers, nothing about speed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from vlcompress.export.native.build import ANYWHERE, FLAGS, SOURCES
from vlcompress.export.native.library import (
    ACTIVATIONS,
    Floats,
    PanelWeight,
    int8_product,
    pack_columns,
    round_weight,
)

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile what `vlcompress native build` compiles there, but for ONNX Runtime's operator, into a program."""
    if shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None:
        pytest.skip(f"no {COMPILER} or no {EMULATOR}")
    folder = tmp_path_factory.mktemp("aarch64")
    program, objects = folder / "runner", []
    own = str(Path(__file__).with_name("runner.cpp"))
    for number, (source, flags) in enumerate([*((str(SOURCES / name), flags) for name, flags in ANYWHERE), (own, ())]):
        objects.append(f"{folder}/{number}.o")
        command = [COMPILER, *FLAGS, "-Werror", *flags, "-I", str(SOURCES), "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    subprocess.run([COMPILER, "-static", "-pthread", "-o", str(program), *objects], check=True)
    return program


def run(
    program: Path, x: Floats, weight: PanelWeight, bias: Floats, residual: Floats, activation: str = "none"
) -> Floats:
    outputs, inputs = weight.shape
    numbers = (len(x), inputs, outputs, weight.height, len(weight.columns))
    line = " ".join(map(str, (*numbers, int(weight.scales is not None), ACTIVATIONS.index(activation))))
    scales = [] if weight.scales is None else [weight.scales]
    arrays = (x, weight.values, weight.columns, weight.starts, *scales, bias, residual)
    data = f"{line}\n".encode() + b"".join(array.tobytes() for array in arrays)
    done = subprocess.run([EMULATOR, str(program)], input=data, capture_output=True, check=True)
    return np.frombuffer(done.stdout, dtype=np.float32).reshape(len(x), outputs)


def normal(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def layer(height: int) -> tuple[Floats, PanelWeight, PanelWeight]:
    """Draw a weight [96, 50], dense, packed in float32 and packed in int8."""
    keep = np.random.default_rng(0).random((96 // height, 50)) < 0.4
    dense = normal(96, 50) * np.repeat(keep, height, axis=0)
    values, scales = round_weight(dense)
    rounded = pack_columns(values, keep, height)
    return dense, pack_columns(dense, keep, height), PanelWeight(**{**vars(rounded), "scales": scales})


@pytest.mark.parametrize("rows", [1, 3, 4, 12, 13, 15, 16, 17, 33])
@pytest.mark.parametrize("height", [16, 48])
def test_it_computes_what_numpy_does(runner: Path, rows: int, height: int) -> None:
    dense, exact, rounded = layer(height)
    x, bias, residual = normal(rows, 50), normal(96), normal(rows, 96)
    np.testing.assert_allclose(run(runner, x, exact, bias, residual), x @ dense.T + bias + residual, atol=2e-5)
    expected = int8_product(x, *round_weight(dense)) + bias + residual
    np.testing.assert_allclose(run(runner, x, rounded, bias, residual), expected, atol=2e-5)


@pytest.mark.parametrize("lowest", [0, -100, -254])
def test_sums_of_int8_are_exact(runner: Path, lowest: int) -> None:
    """As in test_native.py: rows of whole numbers that span all steps are not rounded."""
    random, keep = np.random.default_rng(1), np.ones((3, 450), dtype=np.bool_)
    dense = random.choice(np.array([-127, 127, 5], dtype=np.int8), (48, 450))
    weight = PanelWeight(**{**vars(pack_columns(dense, keep, 16)), "scales": np.ones(48, dtype=np.float32)})
    x = random.choice(np.array([lowest, lowest + 254, lowest + 7]), (19, 450)).astype(np.float32)
    x[:, :2] = lowest, lowest + 254
    nothing = np.zeros(48, dtype=np.float32), np.zeros((19, 48), dtype=np.float32)
    assert (run(runner, x, weight, *nothing) == x.astype(np.int64) @ dense.T.astype(np.int64)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(runner: Path, activation: str) -> None:
    dense, exact, _ = layer(16)
    x, bias, residual = 3 * normal(7, 50), normal(96), normal(7, 96)
    before = torch.from_numpy(x @ dense.T + bias + residual).double()
    tanh = "tanh" if activation == "gelu_tanh" else "none"
    truth = {"none": before, "relu": before.relu()}.get(activation, functional.gelu(before, approximate=tanh))
    np.testing.assert_allclose(run(runner, x, exact, bias, residual, activation), truth.numpy(), atol=2e-5)


def test_products_are_vectors(runner: Path) -> None:
    """The compiler makes NEON of them: fused multiply-adds of float32, and of 16-bit integers into 32 bits."""
    objdump = shutil.which("aarch64-linux-gnu-objdump")
    assert objdump is not None, "it comes with the compiler"
    text = subprocess.run([objdump, "-d", str(runner)], capture_output=True, text=True, check=True).stdout
    kernel = text.partition("vlcompress")[2]
    assert "fmla\tv" in kernel
    assert "smlal" in kernel
