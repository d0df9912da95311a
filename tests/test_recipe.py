from pathlib import Path

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.recipe import RECIPES, Recipe, default_recipe, load_recipe, parse_recipe, published

TRAINING = {"training": {"steps": 10}}


@pytest.mark.parametrize("name", published())
def test_published_recipes_load_and_are_named_after_what_they_are(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert name == f"{recipe.model.family}-{recipe.data.task}-{recipe.model.size}"


def test_saved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = default_recipe("lxmert", "vqa", "small").override(pruning={"pattern": "block:32x4", "seeds": (0, 1)})
    recipe.save(tmp_path / "recipe.toml")
    again = load_recipe(tmp_path / "recipe.toml")
    assert again == recipe
    assert again.sha256() == recipe.sha256()


def test_run_names_are_pinned() -> None:
    """A changed name orphans every run made before: a new field must have a default that changes nothing."""
    assert parse_recipe(TRAINING).name() == "lxmert-vqa-small-82f2b47202"


def test_override_with_none_keeps_and_with_a_value_changes_the_hash() -> None:
    recipe = parse_recipe(TRAINING)
    assert recipe.override(pruning={"sparsity": None}) == recipe
    assert recipe.override(pruning={"sparsity": 0.5}).sha256() != recipe.sha256()


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"prunning": {}}, "unknown section 'prunning'.*did you mean 'pruning'"),
        ({"pruning": {"sparsty": 0.5}}, "unknown field of section 'pruning' 'sparsty'.*did you mean 'sparsity'"),
        ({"pruning": {"sparsity": "high"}}, "pruning.sparsity is 'high': a value of type float is expected"),
        ({"pruning": {"sparsity": 1.0}}, r"sparsity 1 is outside \[0, 1\)"),
        ({"pruning": {"controls": ["rndom"]}}, "unknown control 'rndom'.*did you mean 'random'"),
        ({"pruning": {"seeds": [1, 1]}}, "give at least one, each once"),
        ({"pruning": {"seeds": 3}}, "pruning.seeds is 3: a list of whole numbers is expected"),
        ({"pruning": {"rewind_step": 10}}, "rewind_step 10 is outside the training of 10 steps"),
        ({"training": {"steps": 5, "epochs": 1}}, "set exactly one above 0"),
        ({"training": {"steps": 5, "warmup": 1.0}}, "the warm-up between 0 and 1"),
        ({"training": {"steps": 5, "optimizer": "adam"}}, "unknown optimizer 'adam'.*did you mean 'adamw'"),
        ({"training": {"steps": True}}, "training.steps is True"),
        ({"model": []}, "section 'model' is"),
    ],
)
def test_bad_recipes_name_value_allowed_and_fix(document: dict, text: str) -> None:
    with pytest.raises(VlcompressError, match=text):
        parse_recipe(TRAINING | document)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(VlcompressError, match=r"bad.toml' is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (("lxmet", "vqa", "small"), "unknown model 'lxmet'.*did you mean 'lxmert'"),
        (("lxmert", "vga", "small"), "unknown task 'vga'.*did you mean 'vqa'"),
        (("lxmert", "vqa", "huge"), "unknown size of lxmert 'huge'"),
    ],
)
def test_unknown_model_task_and_size(choice: tuple[str, str, str], text: str) -> None:
    with pytest.raises(VlcompressError, match=text):
        default_recipe(*choice)


def test_defaults_do_not_depend_on_what_is_spelt_out() -> None:
    assert parse_recipe(TRAINING | {"model": {"size": "small"}}).sha256() == parse_recipe(TRAINING).sha256()
    assert Recipe().model.family == "lxmert"
