"""A BERT of one block and sentences to train it on, for pruning inside a loop or a Trainer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from vlcompress.training.pruner import Pruner

CONFIG: dict[str, Any] = {
    "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 40,
    "max_position_embeddings": 16, "num_labels": 3,
}  # fmt: skip


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = BertForSequenceClassification(BertConfig(**CONFIG))
    return model


def batch(rows: int = 8) -> dict[str, Tensor]:
    """Make sentences of six words; the first word decides the label."""
    ids = torch.randint(1, 40, (rows, 6), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}


def rows(count: int) -> list[dict[str, Tensor]]:
    """Make the rows of a data set for a Trainer."""
    made = batch(count)
    return [{name: value[row] for name, value in made.items()} for row in range(count)]


def inputs() -> dict[str, Tensor]:
    return {name: value for name, value in batch().items() if name != "labels"}


def lives(model: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Count the pruned weights whose bits are not those of +0.0."""
    bits = {32: torch.int32, 16: torch.int16}
    weights = {name: model.get_parameter(name).detach() for name in masks}
    return sum(
        int(weights[name].view(bits[8 * weights[name].element_size()])[~mask].count_nonzero())
        for name, mask in masks.items()
    )


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner, steps: int = 3) -> list[int]:
    """Take steps of a plain loop; give what lives of the pruned weights after each."""
    model.train()
    found = []
    for _ in range(steps):
        model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(lives(model, pruner.masks))
    return found
