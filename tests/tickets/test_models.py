"""Models and data of a finished run are those that the ticket names, or an error says what differs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vlcompress.data.regions import region_file, write_regions
from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.tickets.models import split_to_predict
from vlcompress.tickets.run import find_ticket
from vlcompress.tickets.ticket import load_ticket


def test_features_of_another_width_than_the_tickets_are_refused_as_they_are_opened(
    recipe: Recipe, tmp_path: Path
) -> None:
    data = shutil.copytree(recipe.data.source, tmp_path / "data")
    run = find_ticket(
        recipe.override(data={"source": str(data)}, pruning={"rounds": 1}), tmp_path, say=lambda line: None
    )
    ticket, split = load_ticket(run.ticket), recipe.data.score
    assert len(split_to_predict(run, ticket, split)) > 0
    width = ticket.config["visual_feat_dim"]
    for path in data.rglob("*.tsv"):
        file = region_file(path)
        rows = [file.read(name) for name in file.ids]
        path.unlink()
        write_regions(path, (replace(row, features=row.features[:, : width // 2]) for row in rows))
    with pytest.raises(VlcompressError, match=f"feature size {width // 2} where {width} was expected"):
        split_to_predict(run, ticket, split)
