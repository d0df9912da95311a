"""The families by name. Adding one is a file in this folder and a line here."""

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
