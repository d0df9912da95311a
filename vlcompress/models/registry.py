"""The families by name. Adding one is a folder beside this file and a line here."""

from vlcompress.errors import unknown
from vlcompress.models.base import Family
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.models.vilt.adapter import ViltFamily

FAMILIES: dict[str, type[Family]] = {
    "lxmert": LxmertFamily,
    "uniter": UniterFamily,
    "vilt": ViltFamily,
    "resnet": ResnetFamily,
}


def family_named(name: str) -> Family:
    """Return a family.

    Raises:
        VlcompressError: no such family.
    """
    if name not in FAMILIES:
        raise unknown("model", name, FAMILIES)
    return FAMILIES[name]()


def families_of(task: str) -> tuple[str, ...]:
    """List the families whose official code has a task."""
    return tuple(name for name, family in FAMILIES.items() if task in family.tasks)


def part_of(name: str) -> str:
    """Tell the part of its model that a weight belongs to (see `Family.part_of`), its family told by its prefix."""
    family = next((one for one in FAMILIES.values() if name.startswith(one.backbone_prefix)), None)
    return "joint" if family is None else family().part_of(name)
