"""The families by name. Adding one is a folder beside this file and a line here."""

from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Config, Family
from vlcompress.models.contract import missing_attributes
from vlcompress.models.encoder.adapter import EncoderFamily
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.models.vilt.adapter import ViltFamily

FAMILIES: dict[str, type[Family]] = {
    "lxmert": LxmertFamily,
    "uniter": UniterFamily,
    "vilt": ViltFamily,
    "resnet": ResnetFamily,
    "encoder": EncoderFamily,
}


def family_named(name: str, config: Config | None = None) -> Family:
    """Make the adapter of a family; with `config` that for models of this configuration (`Family.of`).

    Raises:
        VlcompressError: no such family, or one that does not say all that `Family` asks for.
    """
    if name not in FAMILIES:
        raise unknown("model", name, FAMILIES)
    if missing := missing_attributes(FAMILIES[name]):
        raise VlcompressError(
            f"the family '{name}' lacks {', '.join(missing)}: say them in its adapter (vlcompress/models/base.py, "
            f"Family), then run `vlcompress check-family {name}`"
        )
    family = FAMILIES[name]()
    return family if config is None else family.of(config)


def families_of(task: str) -> tuple[str, ...]:
    """List the families whose official code has a task."""
    return tuple(name for name, family in FAMILIES.items() if task in family.tasks)


def modality_of(name: str) -> str:
    """Name the modality that a weight serves (see `Family.modality_of`), its family told by its prefix."""
    family = next((one for one in FAMILIES.values() if name.startswith(one.backbone_prefix)), None)
    return "joint" if family is None else family().modality_of(name)
