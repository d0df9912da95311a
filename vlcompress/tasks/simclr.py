"""simCLR (Chen et al., ICML 2020): each view is told apart from all others of the batch but its partner.

Shapes: E views, D width of the projection.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.models.objective import Batch
from vlcompress.tasks.contrastive import ContrastiveTask, cosines, partners, without_self

TEMPERATURE = 0.5
"""The best of those that Chen et al. (CVPR 2021, section 4) compare."""


class SimclrTask(ContrastiveTask):
    """Pictures under simCLR's loss."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute NT-Xent of the batch."""
        return nt_xent(self.family.logits(model, batch.inputs))


def nt_xent(projected_ED: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Compute the normalised-temperature cross entropy (simCLR, equation 1), the mean over all views.

    Args:
        projected_ED: projections [E, D], first views and then second views.
        temperature: cosines are divided by it.
    """
    scores_EE = without_self(cosines(projected_ED)) / temperature
    return cross_entropy(scores_EE, partners(len(scores_EE), scores_EE.device))
