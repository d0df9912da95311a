"""vlcompress: find lottery tickets in vision-language transformers, compile them, export them, measure them.

The packages import only downwards in this order (see CONTRIBUTING.md):
cli, serve, report, bench, export, sparse, tickets, training, pruning, tasks, models, data, kernels; below them
:mod:`vlcompress.errors` and :mod:`vlcompress.artefacts`. Importing this package makes its models known to transformers.
"""

from vlcompress.registration import register

__version__ = "0.1.0"

register()
