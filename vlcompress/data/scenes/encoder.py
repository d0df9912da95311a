"""The frozen region encoder: 128 numbers from the pixels inside a box, and from nothing else.

A crop is resized to SIDE x SIDE and described by its colours on a coarse grid, by how much it differs from the colour
of its border (an outline of what is in it), and by its edges: a filter bank of gradients in eight directions on a
coarse grid. The description goes through a fixed random projection of signs and a signed root, so that no axis of the
feature stands for an attribute. There is nothing to train, and the same pixels give the same bytes everywhere: every
sum is of whole numbers below 2**53, so that the order of summation cannot change it.

Shape legend: N boxes, S side of a crop, C channels, G grid cells, K numbers of the description, D feature width.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FEATURE_DIM = 128
SIDE = 24
_COLOR_GRID, _OUTLINE_GRID, _EDGE_GRID = 4, 6, 4
_DIRECTIONS = 8
_COMPASS = np.array([(4, 0), (4, 2), (3, 3), (2, 4), (0, 4), (-2, 4), (-3, 3), (-4, 2)], dtype=np.float64)
"""Whole-number vectors of nearly one length, one each 22.5 degrees of the half circle."""
_DESCRIPTION = 3 * _COLOR_GRID**2 + _OUTLINE_GRID**2 + _DIRECTIONS * _EDGE_GRID**2
_PROJECTION_SEED = 20210423

Float = NDArray[np.float64]


def encode(picture: Image.Image, boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Encode the boxes of one picture to features.

    Args:
        picture: RGB.
        boxes_N4: float32, corners (x1, y1, x2, y2) in pixels, inside the picture.

    Returns:
        float32 [N, 128], roughly in -4 to 4.
    """
    crops_NSSC = np.stack([_crop(picture, *box) for box in boxes_N4.tolist()])
    description_NK = np.concatenate([_colors(crops_NSSC), _outline(crops_NSSC), _edges(crops_NSSC)], axis=1)
    projected_ND = description_NK @ _PROJECTION_KD
    return (np.sign(projected_ND) * np.sqrt(np.abs(projected_ND)) / 32).astype(np.float32)


def _crop(picture: Image.Image, x1: float, y1: float, x2: float, y2: float) -> Float:
    crop = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(x1, y1, x2, y2))
    return np.asarray(crop, dtype=np.float64)


def _pool(values_NSSC: Float, grid: int) -> Float:
    """Sum over the cells of a grid x grid raster: [N, S, S, C] to [N, grid * grid * C]."""
    count, side, _, channels = values_NSSC.shape
    cell = side // grid
    # Rows are summed first: they lie together in memory, which is several times faster than both axes at once.
    bands = values_NSSC.reshape(count, grid, cell, side * channels).sum(axis=2)
    return np.asarray(bands.reshape(count, grid * grid, cell, channels).sum(axis=2).reshape(count, -1))


def _colors(crops_NSSC: Float) -> Float:
    """Mean colour of each cell, less mid-grey: whole numbers, about -128 to 128."""
    return np.rint(_pool(crops_NSSC, _COLOR_GRID) / (SIDE // _COLOR_GRID) ** 2) - 128


def _outline(crops_NSSC: Float) -> Float:
    """How much each cell differs from the crop's border: whole numbers, 0 to 255."""
    border_NC = np.rint(np.median(np.concatenate([crops_NSSC[:, 0], crops_NSSC[:, -1]], axis=1), axis=1))
    distance_NSS1 = np.abs(crops_NSSC - border_NC[:, None, None]).max(axis=3, keepdims=True)
    return np.asarray(np.rint(_pool(distance_NSS1, _OUTLINE_GRID) / (SIDE // _OUTLINE_GRID) ** 2))


def _edges(crops_NSSC: Float) -> Float:
    """Gradient energy of each cell in eight directions, relative to the crop's: whole numbers, 0 to about 400."""
    grey_NSS = crops_NSSC.sum(axis=3)
    across, down = np.zeros_like(grey_NSS), np.zeros_like(grey_NSS)
    across[:, :, 1:-1] = grey_NSS[:, :, 2:] - grey_NSS[:, :, :-2]
    down[:, 1:-1] = grey_NSS[:, 2:] - grey_NSS[:, :-2]
    along = np.stack([np.abs(across * x + down * y) for x, y in _COMPASS])  # [directions, N, S, S]
    cells = _pool(along.reshape(-1, SIDE, SIDE, 1), _EDGE_GRID).reshape(_DIRECTIONS, len(crops_NSSC), -1)
    energy_NK = cells.transpose(1, 2, 0).reshape(len(crops_NSSC), -1)
    mean_N1 = energy_NK.sum(axis=1, keepdims=True) / energy_NK.shape[1] + 2000
    return np.asarray(np.rint(100 * energy_NK / mean_N1) - 100)


def _projection() -> Float:
    """Draw the fixed signs [K, D]."""
    signs = np.random.default_rng(_PROJECTION_SEED).integers(0, 2, size=(_DESCRIPTION, FEATURE_DIM))
    return (2 * signs - 1).astype(np.float64)


_PROJECTION_KD = _projection()
