"""A ticket on disk is what it was, and its pruned weights are zero."""

import json
from pathlib import Path

import pytest
import torch

from vlcompress.artefacts import seal
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.pruning.mask import Masks
from vlcompress.tickets.ticket import Ticket, load_ticket, save_ticket, weights_file

MASKS = Masks({"w": torch.tensor([[True, False], [True, True]])})
HEAD = Head("answers", ("yes", "no"))


def made(weight: list[list[float]]) -> Ticket:
    return Ticket({"recipe_sha256": "a"}, MASKS, {"w": torch.tensor(weight)}, "lxmert", {"width": 2}, HEAD, "[PAD]\n")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    ticket = made([[1.0, 0.0], [2.0, 3.0]])
    save_ticket(tmp_path / "ticket", ticket, "# card")
    found = load_ticket(tmp_path / "ticket")
    assert found.masks.sha256() == MASKS.sha256()
    assert torch.equal(found.weights["w"], ticket.weights["w"])
    assert (found.family, found.config, found.head, found.vocabulary) == ("lxmert", {"width": 2}, HEAD, "[PAD]\n")
    assert (found.kept, found.permutation) == (3, None)


def test_a_ticket_from_before_it_was_a_folder_of_transformers_opens(tmp_path: Path) -> None:
    """Then config.json said what ticket.json says now, and the weights had another name."""
    folder = tmp_path / "ticket"
    save_ticket(folder, made([[1.0, 0.0], [2.0, 3.0]]), "# card")
    document = json.loads((folder / "ticket.json").read_text())
    older = {key: value for key, value in document.items() if key not in ("model", "form", "files")}
    del document["model"]["head"]["variant"]
    (folder / "config.json").write_text(json.dumps(document["model"]))
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    seal(folder, "ticket.json", older)
    found = load_ticket(folder)
    assert (found.family, found.head, dict(found.document).keys()) == ("lxmert", HEAD, {"recipe_sha256", "files"})
    assert torch.equal(found.weights["w"], torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
    assert weights_file(folder).name == "weights.safetensors"


def test_a_pruned_weight_that_is_not_zero_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="weight 'w' is not zero where its mask prunes it"):
        save_ticket(tmp_path / "ticket", made([[1.0, 1e-30], [2.0, 3.0]]), "")
    assert not list(tmp_path.iterdir())
