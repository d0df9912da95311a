"""Two defects of Triton's interpreter, mended where kernels run in it (TRITON_INTERPRET=1, for tests without a GPU).

- ``tl.dot`` of bf16 tiles multiplies the raw bit patterns, without an error (triton-lang/triton#11584). Widening the
  operands to fp32 is what the tensor cores do: the products are exact there, only the order of the sums differs.
- ``range`` over a Triton scalar fails with NumPy 2.4 in Triton 3.6, which makes an int of a whole array.

Each is mended only where it is found.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def mend() -> None:
    """Mend the interpreter of the installed Triton; a second call changes nothing."""
    if dots_multiply_bits():
        _widen_dots()
    if not getattr(interpreter._patch_lang_tensor, "indexes", False):
        _index_scalars()


def dots_multiply_bits() -> bool:
    """Tell whether 1 times 1 in bf16 is not 1."""
    one = interpreter.TensorHandle(np.full((1, 1), 0x3F80, np.uint16), tl.bfloat16)
    nothing = interpreter.TensorHandle(np.zeros((1, 1), np.float32), tl.float32)
    product = interpreter.InterpreterBuilder().create_dot(one, one, nothing, None, 0)
    return bool(product.data[0, 0] != 1.0)


def _widen_dots() -> None:
    create_dot = interpreter.InterpreterBuilder.create_dot

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = dot


def _index_scalars() -> None:
    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        try:
            tensor.__index__(SimpleNamespace(handle=SimpleNamespace(data=np.array([1]))))
        except TypeError:
            tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    patched.indexes = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patched
