"""Opening a folder in LXMERT's layout: the batches of the official code, and folders that must be refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.vqa_folder import open_vqa
from vlcompress.errors import VlcompressError

FIXTURES = Path(__file__).parents[1] / "fixtures"
OFFICIAL = FIXTURES / "data/lxmert/data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OFFICIAL, tmp_path / "data"))


@pytest.mark.parametrize("split", ["train", "minival", "nominival"])
def test_a_split_gives_the_official_batch(split: str) -> None:
    expected = load_file(FIXTURES / f"data/lxmert/expected_batches/vqa_{split}.safetensors")
    facts = json.loads((FIXTURES / f"data/lxmert/expected_batches/vqa_{split}.json").read_text())
    data = open_vqa(OFFICIAL, (split,), allow_missing=True)
    images = [data.regions(question.img_id) for question in data.questions]
    sentences = [question.sentence for question in data.questions]
    ids = WordPiece.load(FIXTURES / "vocab/bert-tiny-uncased").encode(sentences, fixed=True)
    assert sentences == facts["sent"]
    assert data.without_features == facts["n_raw"] - facts["n_items"]
    np.testing.assert_array_equal(ids, expected["input_ids"], strict=True)
    np.testing.assert_array_equal(data.answers.targets(data.questions), expected["target"], strict=True)
    np.testing.assert_array_equal(np.stack([image.features for image in images]), expected["feats"], strict=True)
    np.testing.assert_array_equal(
        np.stack([image.normalized_boxes for image in images]), expected["boxes"], strict=True
    )


def test_images_without_features_are_refused_with_their_count() -> None:
    with pytest.raises(VlcompressError, match="1 of 4 sentences have no region features"):
        open_vqa(OFFICIAL, ("train",))


def test_splits_are_joined_and_share_their_region_file() -> None:
    data = open_vqa(OFFICIAL, ("minival", "train"), allow_missing=True)
    assert len(data.questions) == 6
    assert [file.path.name for file in data.region_files.files] == ["val2014_obj36.tsv", "train2014_obj36.tsv"]


def test_the_identity_follows_the_content(folder: Path) -> None:
    before = open_vqa(folder, ("minival",)).identity
    assert open_vqa(OFFICIAL, ("minival",)).identity == before
    path = folder / "vqa/minival.json"
    path.write_text(path.read_text().replace("woman", "man"))
    assert open_vqa(folder, ("minival",)).identity != before


def test_an_answer_outside_the_list_is_refused_unless_asked_for(folder: Path) -> None:
    path = folder / "vqa/minival.json"
    path.write_text(path.read_text().replace('"yes": 1', '"perhaps": 1'))
    with pytest.raises(VlcompressError, match="question 142000: answer 'perhaps'"):
        open_vqa(folder, ("minival",))
    data = open_vqa(folder, ("minival",), strict=False)
    assert data.answers.targets(data.questions)[0].sum() == 0


def test_region_files_of_two_widths_are_refused(folder: Path) -> None:
    shutil.copy(OFFICIAL / "mscoco_imgfeat/realdim2048_10boxes.tsv", folder / "mscoco_imgfeat/train2014_obj36.tsv")
    with pytest.raises(VlcompressError, match="feature size 2048 where 64"):
        open_vqa(folder, ("minival", "train"))


def test_unknown_splits_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"unknown split 'mini': .* did you mean"):
        open_vqa(OFFICIAL, ("mini",))
    with pytest.raises(VlcompressError, match="no data folder at"):
        open_vqa(tmp_path / "none")
