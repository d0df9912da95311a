"""Take a pre-training as built-in weights of its family and size: the tensors and the record of how they were made.

    vlcompress pretrain --model uniter --half ...
    python -m bench.built_in runs/pretrained/uniter-small-NAME --command "vlcompress pretrain --model uniter --half ..."

The weights become package data (vlcompress/weights/FAMILY-SIZE-scenes.safetensors), which recipes with the checkpoint
"built-in" start from.
"""

import argparse
import shutil
from pathlib import Path

from vlcompress.artefacts import dumps, unseal, write_file
from vlcompress.tickets.open_experiment import BUILT_IN


def take(folder: Path, command: str) -> Path:
    """Copy the weights of a pre-training and write its record beside them; gives the weights' path."""
    record = dict(unseal(folder, "pretraining.json"))
    weights = BUILT_IN / f"{record['family']}-{record['recipe']['size']}-scenes.safetensors"
    shutil.copyfile(folder / "weights.safetensors", weights)
    facts = {weights.name: record["files"]["weights.safetensors"]}
    write_file(weights.with_suffix(".json"), dumps({**record, "command": command, "files": facts}))
    return weights


def main() -> None:
    """Take the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--command", required=True)
    chosen = parser.parse_args()
    print(take(chosen.folder, chosen.command))


if __name__ == "__main__":
    main()
