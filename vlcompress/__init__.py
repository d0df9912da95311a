"""vlcompress: find lottery tickets in vision-language transformers, compile them, export them, measure them.

The packages import only downwards in this order (see CONTRIBUTING.md):
cli, serve, report, bench, export, sparse, tickets, training, pruning, tasks, models, data, kernels; below them
:mod:`vlcompress.errors` and :mod:`vlcompress.artefacts`. Importing this package makes its models known to transformers.

For models of one's own there are `Pruner`, `PrunerCallback`, `compile`, `export_onnx`, `load` and `unfuse`
(docs/python.md); each is imported when it is asked for, since they bring torch along.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlcompress.registration import register

if TYPE_CHECKING:
    from vlcompress.api import compile as compile
    from vlcompress.api import export_onnx as export_onnx
    from vlcompress.api import load as load
    from vlcompress.errors import VlcompressError as VlcompressError
    from vlcompress.models.encoder.unfused import unfuse as unfuse
    from vlcompress.pruning.mask import Masks as Masks
    from vlcompress.training.pruner import Pruner as Pruner
    from vlcompress.training.trainer_callback import PrunerCallback as PrunerCallback

__version__ = "0.1.0"

_PLACES = {
    "Masks": "pruning.mask",
    "Pruner": "training.pruner",
    "PrunerCallback": "training.trainer_callback",
    "VlcompressError": "errors",
    "compile": "api",
    "export_onnx": "api",
    "load": "api",
    "unfuse": "models.encoder.unfused",
}
"""The module of each name that `import vlcompress` offers."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vlcompress' has no attribute '{name}'")
    return getattr(import_module(f"vlcompress.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


register()
