"""Masks in the files that others write and read: torch.nn.utils.prune, NumPy, safetensors.

Read are state dicts with ``weight_orig`` and ``weight_mask`` (also under "state_dict", as CV_LTH's checkpoints), masks
alone (BERT-Tickets' ``mask.pt``), .npz archives of arrays, safetensors of booleans, and this project's
``mask.safetensors``; in all of these 1 means keep. The .npz archives of Hashemi et al. pickle one dictionary from a
position in the state dict to an array in which 1 means pruned. Nothing in a file is executed.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from vlcompress.artefacts import disk_errors, load_tensors, save_tensors, write_file
from vlcompress.data.pickles import MOST_BYTES, read_arrays
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.checkpoints import read_tensors
from vlcompress.pruning.mask import Masks

FORMATS = {"torch-prune": ".pt", "npz": ".npz", "safetensors": ".safetensors"}
"""What masks are written as, and how the file is called."""
_MASK, _ORIGINAL = "_mask", "_orig"


def read_masks(path: Path, *, inverted: bool = False) -> dict[str, Tensor]:
    """Read the masks of a file.

    Args:
        path: of the file.
        inverted: whether 1 means that a weight is pruned, and 0 that it stays.

    Returns:
        bool, True = keep, by the names of the weights in the file; by their positions in the state dict, in decimal
        digits, where that is how a file names them.

    Raises:
        VlcompressError: no such file, a damaged one, one that holds code or no masks, a mask of other values than 0
            and 1, or masks by position, of which it is known what 1 means, said to be inverted.
    """
    if not path.is_file():
        raise VlcompressError(f"no masks at '{path}': give a file that exists")
    tensors = _read(path)
    masked = {name.removesuffix(_MASK): one for name, one in tensors.items() if name.endswith(_MASK)}
    found = masked or tensors
    if not found:
        raise VlcompressError(f"'{path}' holds no masks: it is empty")
    if inverted and all(name.isdecimal() for name in found):
        raise VlcompressError(
            f"'{path}' has masks by position, in which 1 is known to mean pruned: leave --inverted out"
        )
    return {name: _as_mask(name, one, path, alone=not masked) ^ inverted for name, one in found.items()}


def write_masks(path: Path, form: str, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Write masks for others.

    Args:
        path: the file.
        form: a key of `FORMATS`; "torch-prune" is the state dict that `torch.nn.utils.prune` leaves.
        masks: bool, by the names to be written.
        weights: every tensor of the model by those names, for "torch-prune".

    Raises:
        VlcompressError: another format; the file cannot be written.
    """
    if form not in FORMATS:
        raise unknown("format of masks", form, FORMATS)
    if form == "safetensors":
        save_tensors(path, masks)
        return
    buffer = io.BytesIO()
    if form == "npz":
        arrays: dict[str, Any] = {name: mask.numpy() for name, mask in masks.items()}
        np.savez_compressed(buffer, **arrays)
    else:
        plain = {name: one for name, one in weights.items() if name not in masks}
        pruned = {f"{name}{_ORIGINAL}": weights[name] for name in masks}
        torch.save(plain | pruned | {f"{name}{_MASK}": mask.float() for name, mask in masks.items()}, buffer)
    with disk_errors(path):
        write_file(path, buffer.getvalue())


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        with_shapes = "shapes" in _metadata(path)
        return dict(Masks.load(path)) if with_shapes else load_tensors(path)
    return read_tensors(path)


def _metadata(path: Path) -> Mapping[str, str]:
    load_tensors(path)  # which says what is wrong with a damaged one
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Read an archive of arrays; of one whose arrays are Python objects, the dictionary of arrays that it pickles."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise VlcompressError(f"'{path}' unpacks to more than {MOST_BYTES} bytes: give masks alone")
            members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        arrays: dict[str, NDArray[Any]] = {}
        for name, data in members.items():
            arrays |= _read_npy(name, data, path)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise VlcompressError(f"'{path}' is not a whole .npz archive ({error}): it is damaged or cut") from error
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in native.items()}


def _read_npy(name: str, data: bytes, path: Path) -> dict[str, NDArray[Any]]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read(stream)
    if dtype.hasobject:
        pickled = read_arrays(data[stream.tell() :], path)
        return {str(key): 1 - array if isinstance(key, int) else array for key, array in pickled.items()}
    stream.seek(0)
    return {name: np.lib.format.read_array(stream, allow_pickle=False)}


def _as_mask(name: str, tensor: Tensor, path: Path, *, alone: bool) -> Tensor:
    if not ((tensor == 0) | (tensor == 1)).all():
        hint = "no name in the file ends in '_mask', so every tensor is read as a mask" if alone else "it is no mask"
        raise VlcompressError(f"'{path}': '{name}' has other values than 0 and 1: {hint}; give masks of 0 and 1")
    return tensor.bool()
