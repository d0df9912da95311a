"""A mask's way from the criterion to the compiled layer: CONTRIBUTING lists the files that see a mask."""

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

import vlcompress
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import default_recipe
from vlcompress.sparse.compile import load_compiled
from vlcompress.sparse.compile_run import compile_run
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.run import find_ticket

ROOT = Path(__file__).parents[1]
PACKAGE = Path(vlcompress.__file__).resolve().parent


class Watch:
    """Notes each file of ours in which a function that has run held a mask.

    Held is: in a variable, or returned, were it a `Masks`, a bool for each entry of a prunable weight or (in pruning/)
    for each of its units, or a collection of these; or reached through the ``masks`` of something else. What a backend
    makes of a packed weight's blocks is no mask any more.

    Args:
        weights: numbers of entries of the prunable weights.
        unit: entries of a unit.
    """

    def __init__(self, weights: set[int], unit: int) -> None:
        self._weights, self._units = weights, weights | {count // unit for count in weights}
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, returned: Any) -> None:
        path = frame.f_code.co_filename
        if event != "return" or not path.startswith((f"{PACKAGE}/", f"{PACKAGE.parent}/kernels/")):
            return
        file = str(Path(path).relative_to(PACKAGE.parent)).removeprefix("vlcompress/")
        sizes = self._units if file.startswith("pruning/") else self._weights
        held = any(_is_mask(value, sizes) for value in (returned, *frame.f_locals.values()))
        if held or "masks" in frame.f_code.co_names:
            self.files.add(file)


def _is_mask(value: Any, sizes: set[int], depth: int = 0) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.bool and value.numel() in sizes
    if isinstance(value, dict | list | tuple) and depth < 2:
        entries = list(value.values()) if isinstance(value, dict) else value
        return any(_is_mask(one, sizes, depth + 1) for one in entries[:2])
    return isinstance(value, Masks)


def test_a_mask_passes_the_files_of_the_list_and_no_more(tmp_path: Path) -> None:
    recipe = default_recipe("lxmert", "vqa", "tiny").override(pruning={"pattern": "block:4x2", "controls": []})
    opened = open_experiment(recipe, tmp_path, say=lambda line: None)
    weights = {opened.shapes[name].numel() for name in opened.prunable.names}
    watch = Watch(weights, unit=8)
    sys.setprofile(watch)
    try:
        run = find_ticket(recipe, tmp_path, say=lambda line: None)
        compile_run(run, batch=4, threads=1)
        load_compiled(run.folder / "compiled", {"lxmert": family_named("lxmert")})
    finally:
        sys.setprofile(None)
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## A mask's way")[2].partition("\n## ")[0]
    listed = re.findall(r"^\d+\. `(\S+\.py)`", section, re.MULTILINE)
    assert watch.files == set(listed)
    assert len(listed) == len(set(listed)) <= 12
