"""LXMERT's pre-training data: sentences about images and the list of their answers, with region features.

FOLDER/lxmert/{SPLIT}.json, lxmert/all_ans.json          sentences of an image by source, and every answer
FOLDER/mscoco_imgfeat/, vg_gqa_imgfeat/                  the TSVs of `FEATURES`
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompress.data.documents import Row, read_rows, take
from vlcompress.data.examples import AnswerExample, TaskData
from vlcompress.data.identity import files_identity
from vlcompress.data.pictures import FilePictures
from vlcompress.data.questions import Answers, check_answer_list
from vlcompress.data.regions import RegionFile, region_file
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError, unknown

FEATURES = {
    "mscoco_train": "mscoco_imgfeat/train2014_obj36.tsv",
    "mscoco_minival": "mscoco_imgfeat/val2014_obj36.tsv",
    "mscoco_nominival": "mscoco_imgfeat/val2014_obj36.tsv",
    "vgnococo": "vg_gqa_imgfeat/vg_gqa_obj36.tsv",
    "pretrain": "mscoco_imgfeat/pretrain_obj36.tsv",
}
"""Region features of each split; "pretrain" is the built-in data's, the others are official."""


@dataclass(frozen=True)
class ImageSentences:
    """A row of the file: everything said about one image.

    Attributes:
        sentences: source ("mscoco" captions, "vqa" questions, ...) to sentences.
        labels: source to the label of each of its sentences, answer to score in (0, 1]; captions have none.
    """

    img_id: str
    sentences: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[Mapping[str, float]]]

    def pairs(self) -> Iterator[tuple[str, str, Mapping[str, float]]]:
        """Go through (source, sentence, label), sources in the order of the file."""
        for source, sentences in self.sentences.items():
            labels = self.labels.get(source, [{}] * len(sentences))
            yield from ((source, sentence, label) for sentence, label in zip(sentences, labels, strict=True))


def open_pretraining(
    folder: Path, splits: Sequence[str] = ("pretrain",), *, feature_dim: int | None = None
) -> TaskData[AnswerExample]:
    """Open pre-training splits: an example a sentence, of `kind` its source; a question comes with its answers.

    Args:
        folder: the data folder.
        splits: keys of `FEATURES`.
        feature_dim: the feature width that is wanted; None accepts the first file's.

    Raises:
        VlcompressError: unknown split, a missing or damaged file, images without regions.
    """
    for split in splits:
        if split not in FEATURES:
            raise unknown("split", split, FEATURES)
    files: list[RegionFile] = []
    for name in dict.fromkeys(FEATURES[split] for split in splits):
        files.append(region_file(folder / name, files[0].feature_dim if files else feature_dim))
    paths = [folder / "lxmert" / f"{split}.json" for split in splits]
    said = [one for path in paths for one in read_pretraining(path)]
    missing = [img_id for img_id, *_ in said if not any(img_id in file for file in files)]
    if missing:
        raise VlcompressError(
            f"'{folder}': {len(missing)} of {len(said)} sentences have no region features, the first of image "
            f"'{missing[0]}': extract the features of these images"
        )
    examples = (AnswerExample(row, image, text, label, kind) for row, (image, kind, text, label) in enumerate(said))
    listed = folder / "lxmert" / "all_ans.json"
    return TaskData(
        task="pretraining",
        splits=tuple(splits),
        examples=tuple(examples),
        pictures=FilePictures((), files),
        labels=read_all_answers(listed).labels,
        vocabulary=WordPiece.load(folder) if (folder / "vocab.txt").is_file() else None,
        identity=files_identity(folder, (*paths, listed, *(file.path for file in files))),
    )


def read_pretraining(path: Path) -> list[tuple[str, str, str, Mapping[str, float]]]:
    """Read a pre-training file: (image, source, sentence, label) of each sentence, in the order of the file.

    Raises:
        VlcompressError: no such file, not in the format, labels that do not match their sentences.
    """
    images = (_image(path, number, row) for number, row in enumerate(read_rows(path), start=1))
    return [(image.img_id, *pair) for image in images for pair in image.pairs()]


def read_all_answers(path: Path) -> Answers:
    """Read the pre-training answer list (`all_ans.json`: a list of {"ans", "dsets"}).

    Raises:
        VlcompressError: no such file, not in the format.
    """
    rows = enumerate(read_rows(path), start=1)
    labels = tuple(take(path, number, row, "ans")[0] for number, row in rows)
    check_answer_list(path, labels)
    return Answers(labels)


def pretraining_document(images: Sequence[ImageSentences]) -> list[dict[str, Any]]:
    """Lay out the rows of a pre-training file."""
    return [{"img_id": image.img_id, "sentf": image.sentences, "labelf": image.labels} for image in images]


def _image(path: Path, number: int, row: Row) -> ImageSentences:
    img_id, sentences, label_rows = take(path, number, row, "img_id", "sentf", "labelf")
    labels = {source: [_label(entry) for entry in entries] for source, entries in label_rows.items()}
    for source, entries in labels.items():
        if len(entries) != len(sentences.get(source, ())):
            raise VlcompressError(
                f"'{path}', row {number}: {len(entries)} labels for the {len(sentences.get(source, ()))} sentences of "
                f"'{source}': every sentence needs one"
            )
    return ImageSentences(img_id, sentences, labels)


def _label(entry: Any) -> dict[str, float]:
    """Read a label: officially an object a sentence; lists of one-answer objects are met too."""
    parts = entry if isinstance(entry, list) else [entry]
    return {answer: float(score) for part in parts for answer, score in part.items()}
