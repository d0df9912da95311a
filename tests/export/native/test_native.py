import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.native.build import RECORD, build, built
from vlcompress.export.native.library import (
    BFLOAT16_SETS,
    INSTRUCTION_SETS,
    INT8_SETS,
    STEPS,
    Floats,
    NativeLibrary,
    PanelWeight,
    bfloat16,
    int8_product,
    pack_columns,
    round_weight,
    verify,
)

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> NativeLibrary:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    return NativeLibrary(build(tmp_path_factory.mktemp("native") / "n", with_runtime=False).library)


def layer(outputs: int, inputs: int, height: int, density: float, seed: int = 0) -> tuple[PanelWeight, Floats]:
    random = np.random.default_rng(seed)
    keep = random.random((outputs // height, inputs)) < density
    dense = random.standard_normal((outputs, inputs), dtype=np.float32) * np.repeat(keep, height, axis=0)
    return pack_columns(dense, keep, height), dense


def normal(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def sets_here(library: NativeLibrary) -> tuple[str, ...]:
    """Those for float32."""
    found = library.instruction_sets()
    assert "base" in found, "every processor has it"
    return tuple(name for name in found if name in INSTRUCTION_SETS)


def test_every_count_of_rows_and_every_instruction_set(library: NativeLibrary) -> None:
    weight, dense = layer(48, 37, 16, 0.4)
    for name in sets_here(library):
        for rows in range(71):
            x = normal(rows, 37)
            np.testing.assert_allclose(
                library.block_sparse_linear(x, weight, instruction_set=name), x @ dense.T, atol=1e-5
            )


@pytest.mark.parametrize(("outputs", "inputs", "height"), [(16, 1, 16), (32, 16, 32), (96, 50, 48), (384, 33, 192)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_heights_and_densities(library: NativeLibrary, outputs: int, inputs: int, height: int, density: float) -> None:
    weight, dense = layer(outputs, inputs, height, density)
    x, bias, residual = normal(19, inputs), normal(outputs), normal(19, outputs)
    for name in sets_here(library):
        got = library.block_sparse_linear(x, weight, bias, residual, instruction_set=name)
        np.testing.assert_allclose(got, x @ dense.T + bias + residual, atol=2e-5)


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
def test_activations_come_after_bias_and_residual(library: NativeLibrary, activation: str) -> None:
    weight, dense = layer(32, 24, 16, 0.5)
    x, bias, residual = 4 * normal(37, 24), normal(32), normal(37, 32)
    before = torch.from_numpy(x @ dense.T + bias + residual).double()
    truth = {
        "none": before,
        "gelu": functional.gelu(before),
        "gelu_tanh": functional.gelu(before, approximate="tanh"),
        "relu": before.relu(),
    }[activation]
    for name in sets_here(library):
        got = library.block_sparse_linear(x, weight, bias, residual, activation=activation, instruction_set=name)
        np.testing.assert_allclose(got, truth.numpy(), atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_gelu_over_the_whole_range(library: NativeLibrary, activation: str) -> None:
    """With an identity weight the kernel is the activation alone, to a few units in the last place of max(|x|, 1)."""
    eye = np.eye(16, dtype=np.float32)
    weight = pack_columns(eye, np.ones((1, 16), dtype=np.bool_), 16)
    x = np.concatenate([np.linspace(-12, 12, 16000), [1e4, -1e4, 0, 1e30, -1e30, 1e-30] + [0.0] * 10])
    x_M16 = x.astype(np.float32).reshape(-1, 16)
    truth = functional.gelu(torch.from_numpy(x_M16).double(), approximate="tanh" if "tanh" in activation else "none")
    for name in sets_here(library):
        got = library.block_sparse_linear(x_M16, weight, activation=activation, instruction_set=name)
        error = np.abs(got - truth.numpy()) / np.maximum(np.abs(x_M16), 1)
        assert error.max() < 3e-7


def test_nan_and_infinity_stay_visible(library: NativeLibrary) -> None:
    weight, _ = layer(32, 24, 16, 1.0)
    x = normal(20, 24)
    x[3, 5], x[7, 1] = np.nan, np.inf
    for name in sets_here(library):
        got = library.block_sparse_linear(x, weight, instruction_set=name)
        assert np.isnan(got[3]).all()
        assert np.isinf(got[7]).all()
        assert np.isfinite(np.delete(got, [3, 7], axis=0)).all()


def bfloat16_sets(library: NativeLibrary) -> tuple[str, ...]:
    found = tuple(name for name in library.instruction_sets() if name in BFLOAT16_SETS)
    if not found:
        pytest.skip("this processor multiplies no bfloat16")
    return found


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.concatenate([normal(1000), [0.0, -0.0, 1e-40, 1e38, np.inf, -np.inf]]).astype(np.float32)
    assert (bfloat16(values) == torch.from_numpy(values).bfloat16().float().numpy()).all()


@pytest.mark.parametrize(("outputs", "inputs", "height"), [(16, 1, 16), (32, 64, 32), (96, 50, 48), (64, 100, 16)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_bfloat16_sums_in_float32(
    library: NativeLibrary, outputs: int, inputs: int, height: int, density: float
) -> None:
    weight, dense = layer(outputs, inputs, height, density)
    for name in bfloat16_sets(library):
        for rows in (1, 15, 16, 17, 31, 32, 33, 70):
            x, bias, residual = normal(rows, inputs), normal(outputs), normal(rows, outputs)
            got = library.block_sparse_linear(x, weight, bias, residual, activation="relu", instruction_set=name)
            expected = np.maximum(bfloat16(x) @ bfloat16(dense).T + bias + residual, 0)
            np.testing.assert_allclose(got, expected, atol=2e-5)


def test_bfloat16_fills_blocks_without_touching_other_columns(library: NativeLibrary) -> None:
    """Panels are filled up to 32 columns: a column that holds infinity must not leak into those that leave it out."""
    keep = np.zeros((2, 40), dtype=np.bool_)
    keep[0, :5], keep[1, 39] = True, True
    weight = pack_columns(np.repeat(keep, 16, axis=0).astype(np.float32), keep, 16)
    x = np.ones((20, 40), dtype=np.float32)
    x[:, 39] = np.inf
    for name in bfloat16_sets(library):
        got = library.block_sparse_linear(x, weight, instruction_set=name)
        assert (got[:, :16] == 5).all()
        assert np.isinf(got[:, 16:]).all()


def int8_sets(library: NativeLibrary) -> tuple[str, ...]:
    found = tuple(name for name in library.instruction_sets() if name in INT8_SETS)
    assert "base_int8" in found, "every processor has it"
    return found


def integers(outputs: int, inputs: int, height: int, density: float) -> tuple[PanelWeight, npt.NDArray[np.int8]]:
    """Draw an int8 weight whose units are worth 1, with as many at both ends as anywhere else."""
    random = np.random.default_rng(1)
    keep = random.random((outputs // height, inputs)) < density
    dense = random.choice(np.array([-127, 127, -3, 0, 50], dtype=np.int8), (outputs, inputs))
    dense = dense * np.repeat(keep, height, axis=0).astype(np.int8)
    ones = np.ones(outputs, dtype=np.float32)
    return replace(pack_columns(dense, keep, height), scales=ones), dense


@pytest.mark.parametrize(("outputs", "inputs", "height"), [(16, 2, 16), (32, 64, 32), (96, 50, 48), (64, 450, 16)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lowest", [0, -100, -STEPS])
def test_int8_sums_are_equal_on_every_instruction_set(
    library: NativeLibrary, outputs: int, inputs: int, height: int, density: float, lowest: int
) -> None:
    """Rows of whole numbers that span all steps are not rounded at all, and no sum exceeds what float32 holds exactly.

    Ends meet ends: bytes whose products saturated would show.
    """
    weight, dense = integers(outputs, inputs, height, density)
    random = np.random.default_rng(2)
    for rows in (*range(1, 20), 31, 32, 33, 47, 48, 49, 63, 64, 65, 130):
        x = random.choice(np.array([lowest, lowest + STEPS, lowest + 7]), (rows, inputs)).astype(np.float32)
        x[:, :2] = lowest, lowest + STEPS
        expected = x.astype(np.int64) @ dense.astype(np.int64).T
        assert np.abs(expected).max(initial=0) < 1 << 24
        for name in int8_sets(library):
            got = library.block_sparse_linear(x, weight, instruction_set=name)
            assert (got == expected).all(), f"{name} with {rows} rows"


def test_int8_rounds_row_by_row(library: NativeLibrary) -> None:
    """Each row has its own scale: a row's answer is the same to the bit whatever stands beside it."""
    dense = normal(48, 100)
    values, scales = round_weight(dense)
    weight = replace(pack_columns(values, np.ones((3, 100), dtype=np.bool_), 16), scales=scales)
    x = normal(70, 100) * np.logspace(-4, 4, 70, dtype=np.float32)[:, None]
    expected = int8_product(x, values, scales)
    assert (np.abs(expected - x @ dense.T).max(axis=1) <= 0.03 * np.abs(x @ dense.T).max(axis=1)).all()
    for name in int8_sets(library):
        got = library.block_sparse_linear(x, weight, instruction_set=name)
        assert (np.abs(got - expected).max(axis=1) <= 1e-5 * np.abs(expected).max(axis=1)).all()
        for row in (0, 15, 16, 40, 69):
            alone = library.block_sparse_linear(x[row : row + 1], weight, instruction_set=name)
            assert (alone == got[row]).all()
        assert (library.block_sparse_linear(x, weight, instruction_set=name, threads=3) == got).all()


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
def test_int8_adds_bias_and_residual_before_the_activation(library: NativeLibrary, activation: str) -> None:
    dense, x, bias, residual = normal(48, 40), normal(37, 40), normal(48), normal(37, 48)
    values, scales = round_weight(dense)
    weight = replace(pack_columns(values, np.ones((3, 40), dtype=np.bool_), 16), scales=scales)
    before = torch.from_numpy(int8_product(x, values, scales) + bias + residual)
    tanh = "tanh" if activation == "gelu_tanh" else "none"
    truth = {"none": before, "relu": before.relu()}.get(activation, functional.gelu(before, approximate=tanh))
    for name in int8_sets(library):
        got = library.block_sparse_linear(x, weight, bias, residual, activation=activation, instruction_set=name)
        np.testing.assert_allclose(got, truth.numpy(), atol=1e-5)


def test_int8_keeps_nan_and_infinity_visible_in_their_rows(library: NativeLibrary) -> None:
    weight, _ = integers(32, 24, 16, 1.0)
    x = normal(20, 24)
    x[3, 5], x[7, 1], x[9] = np.nan, np.inf, 0
    x[11] = 1e-38
    for name in int8_sets(library):
        got = library.block_sparse_linear(x, weight, instruction_set=name)
        assert np.isnan(got[[3, 7]]).all()
        assert (got[9] == 0).all()
        assert np.isfinite(np.delete(got, [3, 7], axis=0)).all()


def test_int8_weights_and_float32_ones_are_not_mixed_up(library: NativeLibrary) -> None:
    exact, _ = layer(32, 24, 16, 1.0)
    rounded, _ = integers(32, 24, 16, 1.0)
    with pytest.raises(VlcompressError, match="not for weights of this type"):
        library.block_sparse_linear(normal(2, 24), exact, instruction_set="base_int8")
    with pytest.raises(VlcompressError, match="not for weights of this type"):
        library.block_sparse_linear(normal(2, 24), rounded, instruction_set="base")
    with pytest.raises(VlcompressError, match="give float32, or int8 with scales"):
        library.block_sparse_linear(normal(2, 24), replace(rounded, scales=None))


def test_threads_give_the_same_bits(library: NativeLibrary) -> None:
    weight, _ = layer(768, 512, 16, 0.5)
    x = normal(200, 512)
    one = library.block_sparse_linear(x, weight)
    for threads in (2, 3, 8):
        for _ in range(5):
            assert (library.block_sparse_linear(x, weight, threads=threads) == one).all()


def test_calls_from_several_threads_do_not_mix(library: NativeLibrary) -> None:
    from concurrent.futures import ThreadPoolExecutor

    weight, dense = layer(64, 40, 16, 0.5)
    inputs = [normal(50, 40) + number for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for x, got in zip(inputs, pool.map(lambda x: library.block_sparse_linear(x, weight), inputs), strict=True):
            np.testing.assert_allclose(got, x @ dense.T, rtol=1e-4, atol=1e-4)


def change(weight: PanelWeight, **parts: object) -> PanelWeight:
    return PanelWeight(**{**vars(weight), **parts})


def test_unsound_weights_are_refused(library: NativeLibrary) -> None:
    weight, _ = layer(32, 24, 16, 0.5)
    starts = weight.starts.copy()
    starts[1] = -1
    column = weight.columns.copy()
    column[0] = 24
    for broken, why in [
        (change(weight, height=8), "multiple of 16"),
        (change(weight, starts=weight.starts[:-1]), "one panel for every"),
        (change(weight, starts=starts), "must not fall"),
        (change(weight, starts=weight.starts + 1), "from 0 to all columns"),
        (change(weight, columns=column), "not one of x"),
        (change(weight, columns=-weight.columns - 1), "not one of x"),
        (change(weight, values=weight.values[:-1]), "values for every column"),
    ]:
        with pytest.raises(VlcompressError, match=why):
            library.block_sparse_linear(normal(4, 24), broken)


def test_wrong_arrays_are_refused(library: NativeLibrary) -> None:
    weight, _ = layer(32, 24, 16, 0.5)
    with pytest.raises(VlcompressError, match=r"expects float32 \(4, 24\)"):
        library.block_sparse_linear(normal(4, 25), weight)
    with pytest.raises(VlcompressError, match="not contiguous"):
        library.block_sparse_linear(normal(8, 24)[::2], weight)
    with pytest.raises(VlcompressError, match="unknown activation 'silu'"):
        library.block_sparse_linear(normal(4, 24), weight, activation="silu")
    with pytest.raises(VlcompressError, match="instruction set"):
        library.block_sparse_linear(normal(4, 24), weight, instruction_set="avx9")


def test_a_wrong_kernel_is_found(library: NativeLibrary) -> None:
    class Wrong(NativeLibrary):
        def __init__(self) -> None:
            self._library = library._library

        def block_sparse_linear(self, *args: object, **options: object) -> Floats:
            right = super().block_sparse_linear(*args, **options)  # type: ignore[arg-type]
            right.flat[-1] += 0.01
            return right

    verify(library)
    with pytest.raises(VerificationError, match="wrong on this processor with "):
        verify(Wrong())


@needs_compiler
@pytest.mark.nightly
def test_a_library_is_built_once_and_a_damaged_one_again(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    assert built(folder) is None
    first = build(folder, with_runtime=False)
    stamp = first.library.stat().st_mtime_ns
    assert build(folder, with_runtime=False) == first == built(folder)
    assert first.library.stat().st_mtime_ns == stamp
    first.library.unlink()  # this process has it mapped
    first.library.write_bytes(b"damaged")
    assert built(folder) is None
    assert build(folder, with_runtime=False).library.stat().st_size > 10_000


def test_no_compiler(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no compiler 'no-such-compiler'"):
        build(tmp_path / "n", compiler="no-such-compiler", with_runtime=False)


@needs_compiler
def test_no_header(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"header 'onnxruntime_c_api\.h' is not in .*--ort-include"):
        build(tmp_path / "n", ort_include=tmp_path)
    assert not (tmp_path / "n").exists()


@needs_compiler
@pytest.mark.nightly
def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime_c_api.h").write_text("#error this is not the header\n")
    with pytest.raises(VlcompressError, match=r"cannot compile the native kernel .*this is not the header"):
        build(tmp_path / "n", ort_include=tmp_path)
    assert not (tmp_path / "n" / RECORD).exists()
