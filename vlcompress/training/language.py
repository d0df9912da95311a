"""A language model of a family's own text encoder, made of a task's sentences: where no BERT fits the size."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from vlcompress.artefacts import distinguishing, identity, save_tensors, seal, unseal, writing
from vlcompress.data.tokenizer import WordPiece
from vlcompress.devices import CPU, Compute, computed_on
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.language import language_part
from vlcompress.models.objective import Objective
from vlcompress.tasks.language import WORD_RATE, WordsAlone
from vlcompress.training.checkpoint import distinct
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train
from vlcompress.training.sampling import token_lengths

DOCUMENT = "language.json"
WEIGHTS = "weights.safetensors"
LENGTH = 4
"""Steps, in trainings of the task."""
RATE = 1e-3
"""Peak learning rate: the weights start random, at widths of 128 or less."""
LOGGED = 20
"""Last steps whose mean loss is kept."""


def words_alone(
    family: Family,
    config: Config,
    task: Objective,
    vocabulary: WordPiece,
    hyper: Hyperparameters,
    *,
    data: str,
    home: Path,
    compute: Compute = CPU,
    say: Callable[[str], None] = print,
) -> Path:
    """Train a family's text encoder on masked words alone, or find it done.

    Args:
        family: one that starts from a language model.
        config: of the model.
        task: whose texts are read.
        vocabulary: the model's.
        hyper: of the task's training: optimizer, batch and clip are taken over, the steps times `LENGTH`.
        data: identity of the task's examples.
        home: the result is ``home/pretrained/NAME``.
        compute: where to train, and in what.
        say: called with one line.

    Returns:
        A folder with `WEIGHTS` (what reads words, by the family's names) and language.json.

    Raises:
        VlcompressError: no language model fits the family.
    """
    own = language_part(family)
    hyper = dataclasses.replace(hyper, steps=LENGTH * hyper.steps, learning_rate=RATE, head_rate=1.0)
    document: dict[str, Any] = {"family": family.name, "config": config, "data": data, "vocabulary": vocabulary.sha256}
    document |= {"hyper": distinguishing(hyper), "word_rate": WORD_RATE, "seed": 0} | computed_on(compute)
    name = identity(document)
    folder = home / "pretrained" / f"{family.name}-words-{name[:10]}"
    if (folder / DOCUMENT).is_file():
        unseal(folder, DOCUMENT)
        return folder
    under_way = folder.with_name(f"{folder.name}.under-way")
    losses: list[float] = []
    model = family.build(config, Head("pretraining", ("",)), seed=0).to(compute.torch_device)
    words = WordsAlone(own, task, vocabulary, vocabulary.unk_id)
    train(
        model,
        words,
        hyper,
        seed=0,
        checkpoint=under_way,
        identity=name,
        compute=compute,
        journal=lambda entry: losses.append(entry.loss),
        lengths=token_lengths(words) if hyper.tokens else (),
    )
    _save(folder, model, own.language_names, document | {"loss": fmean(losses[-LOGGED:])})
    shutil.rmtree(under_way, ignore_errors=True)
    say(f"made a language model of the task's words, loss {fmean(losses[-LOGGED:]):.2f}: {folder}")
    return folder


def _save(folder: Path, model: nn.Module, names: re.Pattern[str], document: dict[str, Any]) -> None:
    """Write what reads words, and nothing of what reads pictures."""
    state = distinct(model.state_dict())
    with writing(folder) as temporary:
        save_tensors(temporary / WEIGHTS, {name: state[name] for name in state if names.fullmatch(name)})
        seal(temporary, DOCUMENT, document)
