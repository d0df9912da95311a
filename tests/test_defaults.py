"""A recipe for every cell and size, composed; and the cells that do not exist."""

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.models.registry import FAMILIES, families_of
from vlcompress.recipe import default_recipe
from vlcompress.tasks.registry import TASKS

CELLS = [(family, task) for task in TASKS for family in families_of(task)]


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_every_cell_has_a_recipe_in_every_size(family: str, task: str) -> None:
    for size in FAMILIES[family]().sizes:
        recipe = default_recipe(family, task, size)
        assert (recipe.model.family, recipe.data.task, recipe.model.size) == (family, task, size)
        assert recipe.data.score not in recipe.data.train


def test_published_sizes_have_the_papers_figures() -> None:
    vcr = default_recipe("uniter", "vcr", "base")
    assert (vcr.training.steps, vcr.training.learning_rate, vcr.training.clip) == (8000, 6e-5, 2.0)
    assert (vcr.pruning.sparsity, vcr.pruning.seeds) == (0.5, (0, 1, 2))
    gqa = default_recipe("lxmert", "gqa", "base")
    assert (gqa.training.epochs, gqa.training.batch, gqa.training.learning_rate) == (4.0, 32, 1e-5)
    assert (gqa.data.train, gqa.data.score) == (("train", "valid"), "testdev")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (("vilt", "vcr", "tiny"), "vilt has no vcr in its official code: it has vqa, nlvr2, retrieval, pretraining"),
        (("lxmert", "snli_ve", "tiny"), "snli_ve is there for uniter"),
        (("uniter", "vqa", "huge"), "unknown size of uniter 'huge'"),
        (("uniter", "vrc", "tiny"), "unknown task 'vrc'.*did you mean 'vcr'"),
    ],
)
def test_what_does_not_exist_is_told(choice: tuple[str, str, str], text: str) -> None:
    with pytest.raises(VlcompressError, match=text):
        default_recipe(*choice)
