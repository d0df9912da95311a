"""UNITER's batches.

Shapes: B batch, T words, R regions, F feature width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlcompress.models.base import Sample
from vlcompress.models.batches import padded, padding_mask, regions_of


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Pad samples to the longest text and the most regions.

    Samples of two images make two rows each: text with the left image, then text with the right one.

    Returns:
        input_ids, attention_mask, token_type_ids int64 [B, T]; visual_feats float32 [B, R, F], visual_pos float32
        [B, R, 7], visual_attention_mask, visual_type_ids int64 [B, R]. The types are there for every head, so that
        an exported graph reads them wherever they matter (VCR's words, NLVR2's images of types 1 and 2). For two
        images B is twice the number of samples.
    """
    rows = [(sample, side, regions_of(image)) for sample in samples for side, image in enumerate(sample.images)]
    ids = [sample.ids for sample, _, _ in rows]
    images = [image for _, _, image in rows]
    sides_B = torch.tensor([side + 1 for _, side, _ in rows])
    mask_BR = padding_mask([one.boxes for one in images])
    return {
        "input_ids": padded(ids),
        "attention_mask": padding_mask(ids),
        "token_type_ids": padded([sample.types for sample, _, _ in rows]),
        "visual_feats": padded([one.features for one in images]),
        "visual_pos": padded([one.position_features for one in images]),
        "visual_attention_mask": mask_BR,
        "visual_type_ids": sides_B[:, None].expand(mask_BR.shape).contiguous(),
    }
