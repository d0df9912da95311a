from xml.etree import ElementTree

from vlcompress.report.layer_map import by_block, cell_label, layer_map


def test_weights_are_grouped_by_numbered_block_in_natural_order() -> None:
    names = ["m.layer.10.query.weight", "m.layer.9.key.weight", "m.layer.9.query.weight", "m.pooler.dense.weight"]
    assert list(by_block(dict.fromkeys(names, 0.5))) == ["m.layer.9", "m.layer.10", "m.pooler"]
    assert by_block(dict.fromkeys(names, 0.5))["m.layer.9"] == ["m.layer.9.key.weight", "m.layer.9.query.weight"]


def test_blocks_of_different_stacks_stay_apart() -> None:
    assert len(by_block({"text.layer.0.query.weight": 0.1, "image.layer.0.query.weight": 0.2})) == 2


def test_a_cell_says_which_weight_it_is() -> None:
    assert cell_label("m.layer.0.attention.self.query.weight") == ("attention", "query")
    assert cell_label("m.layer.0.attention.output.dense.weight") == ("attention", "output")
    assert cell_label("m.layer.0.intermediate.dense.weight") == ("intermediate", "")
    assert cell_label("m.pooler.dense.weight") == ("dense", "")


def test_every_layer_has_a_cell_with_its_number_and_sparser_is_darker() -> None:
    drawn = ElementTree.fromstring(layer_map({"m.layer.0.a.weight": 0.25, "m.layer.0.b.weight": 0.75}))
    assert [text.text for text in drawn.iter("text")].count("25.0") == 1
    pale, deep = (sum(map(int, cell.attrib["fill"][4:-1].split(","))) for cell in drawn.iter("rect"))
    assert deep < pale


def test_one_sparsity_everywhere_is_no_division_by_zero() -> None:
    assert layer_map({"m.layer.0.a.weight": 0.5, "m.layer.1.a.weight": 0.5}).count("<rect") == 2


def test_a_long_block_is_folded_into_rows_that_do_not_overlap() -> None:
    names = {f"m.layer.0.part{index}.weight": 0.5 for index in range(9)} | {"m.layer.1.a.weight": 0.5}
    cells = [(cell.attrib["x"], cell.attrib["y"]) for cell in ElementTree.fromstring(layer_map(names)).iter("rect")]
    assert len(set(cells)) == 10


def test_names_cannot_become_markup() -> None:
    assert "<b>" not in layer_map({"m.<b>.weight": 0.5})
