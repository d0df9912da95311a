import shutil
from pathlib import Path

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.recipe import PAPER, RECIPES, Recipe, default_recipe, load_recipe, parse_recipe

TRAINING = {"training": {"steps": 10}}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: str(path.relative_to(RECIPES)))
def test_published_recipes_load_and_lie_where_they_are_looked_for(path: Path) -> None:
    recipe = load_recipe(path)
    assert default_recipe(recipe.model.family, recipe.data.task, recipe.model.size) == recipe
    assert path == RECIPES / recipe.model.family / f"{recipe.data.task}-{recipe.model.size}.toml"
    assert recipe.data.score not in recipe.data.train
    assert path.read_text().startswith("# ")


def test_the_table_of_published_recipes_is_that_of_the_files() -> None:
    table = [line for line in (RECIPES / "README.md").read_text().splitlines() if "| × " in line]
    rows = [line.strip("| ").split(" | ") for line in table]
    cells = {f"{path.parent.name}-{path.stem.removesuffix('-base')}" for path in RECIPES.glob("*/*-base.toml")}
    assert {row[0] for row in rows} == cells
    for cell, length, batch, rate, head, sparsity, *_ in rows:
        recipe = default_recipe(*cell.split("-"), "base")
        training = recipe.training
        said = f"{training.steps} steps" if training.steps else f"{training.epochs:g} epochs"
        assert (length, batch, rate) == (said, str(training.batch), f"{training.learning_rate:g}"), cell
        assert (head, sparsity) == (f"× {training.head_rate:g}", f"{recipe.pruning.sparsity:g}"), cell


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_recipe_for_each_task_and_size(family: str) -> None:
    adapter = family_named(family)
    names = {f"{task}-{size}.toml" for task in adapter.tasks for size in adapter.sizes}
    assert names == {path.name for path in (RECIPES / family).iterdir()}


def test_recipes_of_published_sizes_have_the_papers_figures() -> None:
    vcr = default_recipe("uniter", "vcr", "base")
    assert (vcr.training.steps, vcr.training.learning_rate, vcr.training.clip) == (8000, 6e-5, 2.0)
    assert (vcr.pruning.sparsity, vcr.pruning.seeds) == (0.5, (0, 1, 2))
    gqa = default_recipe("lxmert", "gqa", "base")
    assert (gqa.training.epochs, gqa.training.batch, gqa.training.learning_rate) == (4.0, 32, 1e-5)
    assert (gqa.data.train, gqa.data.score) == (("train", "valid"), "testdev")


def test_a_family_without_a_recipe_is_told_the_file_to_add(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(LxmertFamily, "recipes", tmp_path)
    with pytest.raises(VlcompressError, match=rf"lxmert has no recipe for vqa, tiny: add {tmp_path}/vqa-tiny.toml"):
        default_recipe("lxmert", "vqa", "tiny")
    shutil.copy(RECIPES / "lxmert" / "vqa-tiny.toml", tmp_path)
    assert default_recipe("lxmert", "vqa", "tiny").model.size == "tiny"


def test_saved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = default_recipe("lxmert", "vqa", "small").override(pruning={"pattern": "block:32x4", "seeds": (0, 1)})
    recipe.save(tmp_path / "recipe.toml")
    again = load_recipe(tmp_path / "recipe.toml")
    assert again == recipe
    assert again.sha256() == recipe.sha256()


def test_run_names_are_pinned() -> None:
    """A changed name orphans every run made before: a new field must have a default that changes nothing."""
    assert parse_recipe(TRAINING).name() == "lxmert-vqa-small-82f2b47202"


def test_where_it_runs_is_no_part_of_the_name_but_of_the_file(tmp_path: Path) -> None:
    """The bits' part of it is in the names of trainings and runs (tests/tickets, tests/cli/test_prune.py)."""
    recipe = parse_recipe(TRAINING)
    there = recipe.override(runtime={"device": "cuda:1", "dtype": "bf16"})
    assert there.name() == recipe.name()
    assert there.document() == recipe.document()
    there.save(tmp_path / "recipe.toml")
    assert load_recipe(tmp_path / "recipe.toml") == there


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
        ({"training": {"steps": 5, "warmup": 1.0}}, r"training.warmup 1 is outside \(0, 1\)"),
        (
            {"training": {"steps": 5, "clip": -1}},
            r"training.clip -1 is outside \(0, inf\): give the gradient's largest norm",
        ),
        ({"training": {"steps": 5, "batch": 0}}, r"training.batch 0 is outside \[1, inf\)"),
        ({"training": {"steps": 5, "learning_rate": float("nan")}}, r"training.learning_rate nan is outside"),
        ({"runtime": {"device": "gpu"}}, "unknown device 'gpu'"),
        ({"runtime": {"dtype": "fp8"}}, "unknown dtype 'fp8'"),
        ({"training": {"steps": 5, "optimizer": "adam"}}, "unknown optimizer 'adam'.*did you mean 'adamw'"),
        ({"training": {"steps": 5, "loss": "mce"}}, "unknown loss 'mce'.*best-answer"),
        ({"training": {"steps": 5, "adversarial": "sound"}}, "adversarial 'sound': give text, image"),
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
    for text in ("[model\n", f"[pruning]\nseeds = [{'9' * 5000}]\n", f"a = {'[' * 5000}"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(VlcompressError, match=r"bad.toml' is not valid TOML"):
            load_recipe(tmp_path / "bad.toml")
    with pytest.raises(VlcompressError, match=r"bad.toml' is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (("lxmet", "vqa", "small"), "unknown model 'lxmet'.*did you mean 'lxmert'"),
        (("lxmert", "vga", "small"), "unknown task 'vga'.*did you mean 'vqa'"),
        (("lxmert", "vqa", "huge"), "unknown size of lxmert 'huge'"),
        (("vilt", "vcr", "tiny"), "vilt has no task vcr: it has vqa, nlvr2, retrieval, pretraining"),
        (("lxmert", "snli_ve", "tiny"), "snli_ve is there for uniter"),
    ],
)
def test_unknown_model_task_and_size(choice: tuple[str, str, str], text: str) -> None:
    with pytest.raises(VlcompressError, match=text):
        default_recipe(*choice)


def test_defaults_do_not_depend_on_what_is_spelt_out() -> None:
    assert parse_recipe(TRAINING | {"model": {"size": "small"}}).sha256() == parse_recipe(TRAINING).sha256()
    assert Recipe().model.family == "lxmert"


@pytest.mark.parametrize(
    ("section", "field", "one", "other"),
    [
        ("pruning", "schedule", "geometric:0.12345678", "geometric:0.12345699"),
        ("pruning", "schedule", "linear:3.3333333", "linear:3.3333339"),
        ("pruning", "schedule", "levels:12.345678,40", "levels:12.345679,40"),
        ("training", "adversarial", "text:0.12345678", "text:0.12345699"),
    ],
)
def test_long_decimals_stay_as_they_were_given(section: str, field: str, one: str, other: str) -> None:
    document = {"training": {"steps": 10}}
    recipes = [parse_recipe(document).override(**{section: {field: text}}) for text in (one, other)]
    assert [recipe.tables()[section][field] for recipe in recipes] == [one, other]
    assert recipes[0].sha256() != recipes[1].sha256()
    assert parse_recipe(recipes[0].tables()) == recipes[0]


@pytest.mark.parametrize(
    ("pruning", "says"),
    [
        ({"seeds": [2**70]}, "give whole numbers of 0 to 2\\^32 - 1"),
        ({"seeds": [-1]}, "give whole numbers of 0 to 2\\^32 - 1"),
        ({"controls": ["random", "random"]}, "controls random, random: give each once"),
    ],
)
def test_seeds_and_controls_that_cannot_be_are_refused(pruning: dict[str, object], says: str) -> None:
    with pytest.raises(VlcompressError, match=says):
        parse_recipe({"pruning": pruning, **TRAINING})


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/*-base.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_published_sizes_prune_what_pays_and_the_papers_way_stays_by_name(path: Path) -> None:
    recipe = load_recipe(path)
    assert not recipe.pruning.pattern.by_kind, "leaves zeros that nothing runs faster"
    assert "unstructured" in recipe.pruning.controls
    paper = recipe.override(pruning=PAPER).pruning
    assert (str(paper.pattern), str(paper.criterion), str(paper.schedule)) == ("unstructured", "magnitude", "linear:10")
    assert (paper.sparsity, paper.seeds, paper.controls) == (recipe.pruning.sparsity, (0, 1, 2), ("random",))
