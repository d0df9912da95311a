"""What the server asks of anything that runs a model."""

from collections.abc import Mapping
from typing import Protocol

from vlcompress.serve.tensors import Arrays, TensorSpec


class Engine(Protocol):
    """A model that is loaded and can be run from several threads at once.

    Attributes:
        platform: what kind of model it is, for the metadata.
        backend: what runs it.
        provider: the execution provider that it really runs on.
        inputs, outputs: its tensors.
        example_sizes: sizes of named axes that the model surely runs at, as far as known.
        rows_apart: whether a row's answer is the same whatever the other rows of its execution are.
    """

    platform: str
    backend: str
    provider: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example_sizes: Mapping[str, int]
    rows_apart: bool

    def run(self, feeds: Arrays) -> Arrays:
        """Run the model.

        Args:
            feeds: every input, checked, of one batch size.

        Returns:
            Every output.

        Raises:
            Refusal: 400 where the runtime says that the inputs are at fault.
        """
