import re

from vlcompress.report.layer_map import by_block, cell_label, layer_map
from vlcompress.report.plots import inline


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


def test_every_layer_has_a_cell_with_its_number_and_its_name() -> None:
    drawn = layer_map({"m.layer.0.a.weight": 0.25, "m.layer.0.b.weight": 0.75})
    assert [(name, [cell.lines[0] for cell in cells]) for name, cells in drawn.rows] == [
        ("m.layer.0", ["25.0", "75.0"])
    ]
    assert "<title>m.layer.0.b.weight: 75.0 % pruned</title>" in inline(drawn)


def test_sparser_is_darker() -> None:
    drawn = inline(layer_map({"m.layer.0.a.weight": 0.25, "m.layer.0.b.weight": 0.75}))
    pale, deep = (
        sum(bytes.fromhex(found)) for found in re.findall(r"pruned</title>.*?fill: #(\w{6})", drawn, re.DOTALL)
    )
    assert deep < pale


def test_one_sparsity_everywhere_is_no_division_by_zero() -> None:
    assert inline(layer_map({"m.layer.0.a.weight": 0.5, "m.layer.1.a.weight": 0.5})).count("<title>") == 2


def test_names_cannot_become_markup() -> None:
    assert "<b>" not in inline(layer_map({"m.<b>.weight": 0.5}))
