"""Two defects of Triton's interpreter, mended where kernels run in it (TRITON_INTERPRET=1, for tests without a GPU).

- ``tl.dot`` of bf16 tiles multiplies the raw bit patterns, without an error (triton-lang/triton#11584). Widening the
  operands to fp32 is what the tensor cores do: the products are exact there, only the order of the sums differs. Where
  a release has mended it, widening changes nothing.
- ``range`` over a Triton scalar fails with recent NumPy in Triton 3.6: its tensors have no ``__index__``.
"""

from typing import Any

_mended = False


def mend() -> None:
    """Mend the interpreter of the installed Triton, once."""
    global _mended
    if not _mended:
        _mended = True
        _widen_dots()
        _index_scalars()


def _widen_dots() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    create_dot = interpreter.InterpreterBuilder.create_dot

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = dot


def _index_scalars() -> None:
    import numpy as np
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    interpreter._patch_lang_tensor = patched
