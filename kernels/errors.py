"""The one error that wrong input to this package raises."""


class KernelInputError(ValueError):
    """Input that a kernel must not be launched with: the text names the value, what is allowed, and the fix.

    It is a ValueError and not a VlcompressError because this package imports nothing but torch and triton; the command
    line maps it to exit code 2.
    """
