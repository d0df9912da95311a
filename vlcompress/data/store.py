"""The internal store: what `vlcompress data import` makes of any published layout, and what reads fastest.

FOLDER/data.json                       task, splits, labels, vocabulary; sha256 and size of every other file
FOLDER/examples/SPLIT.jsonl            one neutral example a line (`vlcompress.data.examples`)
FOLDER/tokens/SPLIT.safetensors        ids of the examples' sentences, where a vocabulary was given; starts
FOLDER/vocab.txt                       that vocabulary
FOLDER/regions/, regions_gt/, pictures/  shards (`vlcompress.data.shards`): the detector's regions, those of annotated
                                       boxes, picture files as they were
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.artefacts import file_sha256, identity, unseal
from vlcompress.data.documents import read_lines
from vlcompress.data.examples import (
    AnswerExample,
    CaptionExample,
    ChoiceExample,
    ClassExample,
    EntailmentExample,
    Example,
    GqaFacts,
    PairExample,
    ReferringExample,
    SentenceExample,
    TokenIds,
    token_ids,
)
from vlcompress.data.found import PICTURES_ONLY, Found
from vlcompress.data.pictures import decode
from vlcompress.data.regions import Regions
from vlcompress.data.shards import ShardReader
from vlcompress.errors import VlcompressError

NAME = "store"
DOCUMENT = "data.json"
KIND = "vlcompress data"
VERSION = 1

EXAMPLES: Mapping[str, type[Any]] = {
    "vqa": AnswerExample,
    "gqa": AnswerExample,
    "nlvr2": PairExample,
    "snli_ve": EntailmentExample,
    "vcr": ChoiceExample,
    "refcoco": ReferringExample,
    "retrieval": CaptionExample,
    "classification": ClassExample,
    "sentences": SentenceExample,
}
"""Each task's kind of example."""


class StorePictures:
    """Images of a store; see `vlcompress.data.examples.Pictures`."""

    def __init__(self, folder: Path, *, with_regions: bool = True) -> None:
        """Read the indices; `with_regions` False leaves the region features alone."""
        kinds = (False, True) if with_regions else ()
        places = {kind: folder / ("regions_gt" if kind else "regions") for kind in kinds}
        self._regions = {kind: ShardReader(place) for kind, place in places.items() if place.is_dir()}
        self._pictures = ShardReader(folder / "pictures") if (folder / "pictures").is_dir() else None
        self._folder = folder

    @property
    def feature_dim(self) -> int:
        """Width of the region features; 0 where there are only pixels."""
        return next((reader.width("features") for reader in self._regions.values()), 0)

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        """Say whether the image has region features; `ground_truth` None means of either kind."""
        return any(image in reader for kind, reader in self._regions.items() if ground_truth in (None, kind))

    def has_pixels(self, image: str) -> bool:
        """Say whether there is a picture."""
        return self._pictures is not None and image in self._pictures

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Read an image's regions; errors as of `Pictures.regions`."""
        reader = self._regions.get(ground_truth)
        if reader is None or image not in reader:
            kind = "the annotated boxes" if ground_truth else "the detector"
            raise VlcompressError(f"image '{image}': '{self._folder}' has no region features of {kind}")
        height, width = reader.facts(image)
        return Regions(img_id=image, height=height, width=width, **reader.read(image))

    def files_of(self, images: Iterable[str]) -> tuple[Path, ...]:
        """Name none: data.json has the hashes of its shards."""
        return ()

    def picture_bytes(self, image: str) -> bytes:
        """Read the picture's file as it was imported."""
        if self._pictures is None or image not in self._pictures:
            raise VlcompressError(f"image '{image}': '{self._folder}' has no picture of it")
        return self._pictures.read(image)["bytes"].tobytes()

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image as uint8 [height, width, 3], RGB; errors as of `Pictures.pixels`."""
        return decode(self.picture_bytes(image), f"'{self._folder}', picture '{image}'")


def region_arrays(regions: Regions) -> dict[str, NDArray[Any]]:
    """Name the arrays of an image's regions as a shard does."""
    names = ("boxes", "features", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "soft_labels", "sizes")
    return {name: getattr(regions, name) for name in names if getattr(regions, name) is not None}


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the store's splits if it is of this task."""
    if not (folder / DOCUMENT).is_file():
        return ()
    document = _document(folder)
    return tuple(document["splits"]) if document["task"] == task else ()


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; see `vlcompress.data.found.Layout`."""
    document = _document(folder)
    _check_files(folder, document, splits)
    pictures = StorePictures(folder, with_regions=feature_dim != PICTURES_ONLY)
    if feature_dim and feature_dim != pictures.feature_dim:
        raise VlcompressError(
            f"'{folder}' has features of size {pictures.feature_dim} where {feature_dim} was expected: use those that "
            "the model was made for"
        )
    examples = [example for split in splits for example in _read_examples(folder, task, split)]
    left_out: dict[str, int] = {}
    for split in splits:
        for why, count in document["splits"][split]["left_out"].items():
            left_out[why] = left_out.get(why, 0) + count
    tokens = _read_tokens(folder, document, splits)
    return Found(
        tuple(examples),
        pictures,
        tuple(document["labels"]),
        left_out=left_out,
        encoded=tokens,
        identity=_identity(folder, document, splits),
    )


def check_content(folder: Path) -> None:
    """Compare every file with its recorded hash; `open_splits` does so with small files only.

    Raises:
        VlcompressError: a missing or altered file.
    """
    unseal(folder, DOCUMENT)


def example_line(example: Example) -> str:
    """Write an example as its line in ``examples/SPLIT.jsonl``."""
    row = {name: value for name, value in asdict(example).items() if value is not None}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _document(folder: Path) -> dict[str, Any]:
    document = unseal(folder, DOCUMENT, check=False)
    if document.get("kind") != KIND or document.get("version") != VERSION:
        raise VlcompressError(
            f"'{folder / DOCUMENT}' is of '{document.get('kind')}' version {document.get('version')}, not of "
            f"'{KIND}' version {VERSION}: import the data again"
        )
    return document


def _parts(folder: Path, document: Mapping[str, Any], splits: Sequence[str]) -> tuple[Path, ...]:
    """Name the files that some splits need."""
    others = {name for other in document["splits"] if other not in splits for name in _own(other)}
    return tuple(folder / name for name in document["files"] if name not in others)


def _identity(folder: Path, document: Mapping[str, Any], splits: Sequence[str]) -> str:
    """Hash the opened splits by the hashes in data.json: shards need not be read for it."""
    names = {str(path.relative_to(folder)) for path in _parts(folder, document, splits)}
    return identity({name: facts["sha256"] for name, facts in document["files"].items() if name in names})


def _own(split: str) -> tuple[str, str]:
    return f"examples/{split}.jsonl", f"tokens/{split}.safetensors"


def _check_files(folder: Path, document: Mapping[str, Any], splits: Sequence[str]) -> None:
    """Compare sizes of all files, and hashes of the small ones: shards are mapped, not read."""
    for path in _parts(folder, document, splits):
        facts = document["files"][str(path.relative_to(folder))]
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise VlcompressError(f"'{path}' is missing or has not the recorded {facts['bytes']} bytes: import again")
        if path.suffix != ".safetensors" and file_sha256(path) != facts["sha256"]:
            raise VlcompressError(f"'{path}' is not as it was written: its sha256 differs; import again")


def _read_examples(folder: Path, task: str, split: str) -> Iterator[Example]:
    path = folder / _own(split)[0]
    for number, row in enumerate(read_lines(path), start=1):
        try:
            values = {name: _tuples(value) for name, value in row.items()}
            if "gqa" in values:
                values["gqa"] = GqaFacts(**{name: _tuples(value) for name, value in values["gqa"].items()})
            yield EXAMPLES[task](**values)
        except TypeError as error:
            raise VlcompressError(f"'{path}', row {number} is no example of {task} ({error}): import again") from error


def _read_tokens(folder: Path, document: Mapping[str, Any], splits: Sequence[str]) -> TokenIds | None:
    from safetensors.numpy import load_file

    paths = [folder / _own(split)[1] for split in splits]
    if not all(path.is_file() for path in paths):
        return None
    parts = [TokenIds(document["vocabulary"], **load_file(path)) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return token_ids([part[i] for part in parts for i in range(len(part.starts) - 1)], document["vocabulary"])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
