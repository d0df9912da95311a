"""Writing the built-in data set: pictures, raw VQA v2 files and everything in LXMERT's official layout.

FOLDER/images/{train2014,val2014}.zip                      pictures, as COCO ships them; not those of pre-training
FOLDER/vqa_v2/v2_*_{questions,annotations}.json            raw VQA v2, ten annotators a question
FOLDER/vqa/{train,minival}.json, trainval_*.json           LXMERT's questions with soft scores, and the answer list
FOLDER/mscoco_imgfeat/{train2014,val2014,pretrain}_obj36.tsv  region features (eight boxes; the name is the format's)
FOLDER/lxmert/{pretrain,all_ans}.json                      pre-training sentences, of pictures of their own
FOLDER/vocab.txt, objects_vocab.txt, attributes_vocab.txt  words, detector's classes and attributes
FOLDER/data_report.json, scenes.json                       baselines; recipe and sha256 of every other file
"""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from vlcompress.artefacts import Json, dumps, seal, write_file, writing
from vlcompress.data.pretraining import ImageSentences, pretraining_document
from vlcompress.data.questions import Answers, Question
from vlcompress.data.regions import format_row
from vlcompress.data.scenes.boxes import ATTRIBUTE_CLASSES, OBJECT_CLASSES
from vlcompress.data.scenes.make import Part, Picture, make_picture
from vlcompress.data.scenes.processes import spread
from vlcompress.data.scenes.questions import ANSWERS
from vlcompress.data.scenes.tasks.folder import Size, new_file, write_json, write_rows
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.vqa_v2 import Annotated, annotations_document, questions_document, soft_label, to_lxmert
from vlcompress.errors import VlcompressError, unknown

GENERATOR_VERSION = 2
"""Changes whenever the same recipe would give other bytes."""

_KNOWN = Answers(ANSWERS)


SIZES = {"tiny": Size(40, 20), "small": Size(2500, 1000)}
"""Pictures of train and minival; every picture has four questions."""

QUESTIONS = 4
PRETRAINING_QUESTIONS = 5


@dataclass(frozen=True)
class ScenesRecipe:
    """Everything that decides the bytes of the data set.

    Attributes:
        size: a key of SIZES.
        seed: of everything random, 0 or more.
        pretrain: number of pictures for pre-training.
        images: whether the pictures of train and minival are kept.
        version: of the generator.
    """

    size: str = "small"
    seed: int = 0
    pretrain: int = 0
    images: bool = True
    version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if self.size not in SIZES:
            raise unknown("size of the built-in data", self.size, SIZES)
        if self.pretrain < 0 or self.seed < 0:
            raise VlcompressError(f"pretrain {self.pretrain}, seed {self.seed}: both must be 0 or more")

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by split; their pictures differ, and so do their numbers."""
        size = SIZES[self.size]
        parts = {
            "train": Part("train2014", 1, size.train, QUESTIONS),
            "minival": Part("val2014", 1_000_001, size.score, QUESTIONS),
        }
        if self.pretrain:
            parts["pretrain"] = Part("pretrain", 2_000_001, self.pretrain, PRETRAINING_QUESTIONS)
        return parts


def make_scenes(
    folder: Path | str,
    *,
    size: str = "small",
    seed: int = 0,
    pretrain: int = 0,
    images: bool = True,
    processes: int | None = None,
) -> Path:
    """Write the data set; the folder appears whole or not at all, and replaces one that was there.

    The bytes depend on the recipe alone, not on `processes`.

    Args:
        folder: what to write.
        size: "tiny" (40 and 20 pictures, for tests) or "small" (2500 and 1000), four questions each.
        seed: 0 or more.
        pretrain: pictures for pre-training, with five questions and three captions each.
        images: keep the pictures of train and minival.
        processes: how many to use; None chooses.

    Returns:
        The folder.

    Raises:
        VlcompressError: unknown size, a negative number, disk full, no permission.
    """
    from vlcompress.data.scenes.baselines import report  # brings torch along, which a server does without

    recipe = ScenesRecipe(size, seed, pretrain, images)
    target = Path(folder)
    with writing(target) as root:
        for split, part in recipe.parts.items():
            _write_part(root, recipe, split, part, processes)
        _write_tables(root)
        write_file(root / "data_report.json", dumps(report(root)))
        parts = {split: asdict(part) for split, part in recipe.parts.items()}
        seal(root, "scenes.json", {"recipe": asdict(recipe), "parts": parts})
    return target


def _write_part(root: Path, recipe: ScenesRecipe, split: str, part: Part, processes: int | None) -> None:
    """Write a part's pictures and features as they come, then what is said about them."""
    keep_pictures = recipe.images and split != "pretrain"
    features = root / "mscoco_imgfeat" / f"{part.name}_obj36.tsv"
    gallery = root / "images" / f"{part.name}.zip"
    numbers = range(part.first_number, part.first_number + part.pictures)
    questions: list[Annotated] = []
    sentences: list[ImageSentences] = []
    with ExitStack() as stack:
        rows = stack.enter_context(new_file(features))
        archive = stack.enter_context(ZipFile(stack.enter_context(new_file(gallery)), "w")) if keep_pictures else None
        for picture in stack.enter_context(spread(partial(make_picture, recipe.seed, part), numbers, processes)):
            rows.write(format_row(picture.regions))
            if archive:  # ZipInfo's default date is fixed, so that the same pictures give the same bytes
                archive.writestr(ZipInfo(f"{part.name}/{picture.name}.jpg"), picture.jpeg)
            questions += picture.questions
            sentences.append(_sentences(picture))
    if split == "pretrain":
        write_rows(root / "lxmert" / "pretrain.json", pretraining_document(sentences))
    else:
        _write_questions(root, split, part, questions)


def _sentences(picture: Picture) -> ImageSentences:
    labels = [soft_label((answer for answer, _ in question.answers), _KNOWN) for question in picture.questions]
    questions = [question.sentence for question in picture.questions]
    return ImageSentences(picture.name, {"mscoco": picture.captions, "vqa": questions}, {"vqa": labels})


def _write_questions(root: Path, split: str, part: Part, questions: list[Annotated]) -> None:
    raw = root / "vqa_v2"
    write_json(raw / f"v2_OpenEnded_mscoco_{part.name}_questions.json", questions_document(questions))
    write_json(raw / f"v2_mscoco_{part.name}_annotations.json", annotations_document(questions))
    rows = [_lxmert_row(question) for question in to_lxmert(questions, _KNOWN, f"scenes_{part.name}_{{:012d}}")]
    write_rows(root / "vqa" / f"{split}.json", rows)


def _lxmert_row(question: Question) -> Json:
    return {
        "answer_type": question.answer_type,
        "img_id": question.img_id,
        "label": question.label,
        "question_id": question.question_id,
        "question_type": question.question_type,
        "sent": question.sentence,
    }


def _write_tables(root: Path) -> None:
    write_json(root / "vqa" / "trainval_label2ans.json", list(ANSWERS))
    write_json(root / "vqa" / "trainval_ans2label.json", _KNOWN.index)
    write_rows(root / "lxmert" / "all_ans.json", [{"ans": answer, "dsets": ["vqa"]} for answer in ANSWERS])
    lists = {"vocab.txt": tokens(), "objects_vocab.txt": OBJECT_CLASSES, "attributes_vocab.txt": ATTRIBUTE_CLASSES}
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
