"""Image-text retrieval: five captions of each picture, in Karpathy's file.

FOLDER/flickr30k/karpathy/dataset_flickr30k.json, flickr30k/flickr30k-images/SPLIT.zip
FOLDER/flickr30k_imgfeat/SPLIT_obj36.tsv
"""

from random import Random

from vlcompress.artefacts import Json
from vlcompress.data.scenes.captions import five_captions
from vlcompress.data.scenes.shots import Shot
from vlcompress.data.scenes.tasks.folder import Folder, write_json


def write(folder: Folder) -> Json:
    """Write the three splits; give the chance level."""
    images: list[Json] = []
    for place, split in enumerate(("train", "val", "test")):
        names = [f"{place + 1}{number:06d}" for number in range(folder.count(split))]
        gallery, features = f"flickr30k/flickr30k-images/{split}.zip", f"flickr30k_imgfeat/{split}_obj36.tsv"
        for shot in folder.shoot(split, names, gallery=gallery, features=features):
            images.append(_karpathy(shot, split, len(images), folder.seed))
    write_json(folder.root / "flickr30k/karpathy/dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    return {"chance": {f"R@{k}": min(1.0, k / folder.count("test")) for k in (1, 5, 10)}}


def _karpathy(shot: Shot, split: str, number: int, seed: int) -> Json:
    said = five_captions(shot.scene, Random(f"{seed}/retrieval/{shot.name}"))
    sentences = [
        {
            "tokens": text.lower().replace(".", "").split(),
            "raw": text,
            "imgid": number,
            "sentid": len(said) * number + place,
        }
        for place, text in enumerate(said)
    ]
    return {
        "sentids": [sentence["sentid"] for sentence in sentences],
        "imgid": number,
        "sentences": sentences,
        "split": split,
        "filename": f"{shot.name}.jpg",
    }
