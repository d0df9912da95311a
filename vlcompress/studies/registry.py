"""The studies by name. Adding one is a file in this folder and a line here."""

from vlcompress.errors import unknown
from vlcompress.studies.adversarial import AdversarialStudy
from vlcompress.studies.base import Study
from vlcompress.studies.families import Families
from vlcompress.studies.granularity import Granularity
from vlcompress.studies.overlap import Overlap
from vlcompress.studies.paper_b import PaperB
from vlcompress.studies.pretraining_ticket import PretrainingTicket
from vlcompress.studies.rewind import Rewind
from vlcompress.studies.tickets import Tickets
from vlcompress.studies.transfer import Transfer
from vlcompress.studies.vision import Vision

_ALL: tuple[Study, ...] = (
    Tickets(),
    Transfer(),
    PretrainingTicket(),
    Rewind(),
    Overlap(),
    AdversarialStudy(),
    Families(),
    PaperB(),
    Vision(),
    Granularity(),
)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}


def study_named(name: str) -> Study:
    """Look up a study.

    Raises:
        VlcompressError: no such study.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]
