"""Masks at the sizes of a SAM: small ones to learn from, full ones to measure with."""

import numpy as np


def area_averaged_masks(masks: np.ndarray, valid: tuple[int, int], cell: int, side: int) -> np.ndarray:
    """Masks on the decoder's coarse grid: a cell is set if the mask covers at least half of it.

    A mask that covers half of no cell keeps the cells it covers most, so none is empty. Cells, or the parts of them,
    in the padding count as not covered.

    Args:
        masks (`numpy.ndarray`): Boolean masks (n, height, width) of the image, none of them empty.
        valid (`tuple[int, int]`): (height, width) of the image in the model's input, px, without padding.
        cell (`int`): Side of a cell in px of the input; 4 for SAM.
        side (`int`): Side of the grid in cells; a quarter of the input's side for SAM.

    Returns:
        `numpy.ndarray`: uint8 (n, side, side).
    """
    coarse = np.zeros((len(masks), side, side), dtype=np.uint8)
    for index, mask in enumerate(masks):
        share = _covered_shares(mask, valid, cell, side)
        coarse[index] = share >= min(0.5, share.max()) - 1e-9
    return coarse


def nearest_masks(masks: np.ndarray, valid: tuple[int, int], side: int) -> np.ndarray:
    """Masks at the size of the model's input by nearest pixel, zero in the padding.

    A mask that falls between the pixels keeps those that it covers most: an object that is there at the image's own
    size is there to be found, and finding nothing is never right.

    Args:
        masks (`numpy.ndarray`): Boolean masks (n, height, width) of the image, none of them empty.
        valid (`tuple[int, int]`): (height, width) of the image in the model's input, px, without padding.
        side (`int`): Side of the model's input, px.

    Returns:
        `numpy.ndarray`: uint8 (n, side, side), none of them empty.
    """
    _, height, width = masks.shape
    rows = ((np.arange(valid[0]) + 0.5) * (height / valid[0])).astype(int)
    columns = ((np.arange(valid[1]) + 0.5) * (width / valid[1])).astype(int)
    full = np.zeros((len(masks), side, side), dtype=np.uint8)
    full[:, : valid[0], : valid[1]] = masks[:, rows][:, :, columns]
    for index in np.flatnonzero(~full.any(axis=(1, 2))):
        share = _covered_shares(masks[index], valid, 1, side)
        full[index] = share >= share.max() - 1e-9
    return full


def _covered_shares(mask: np.ndarray, valid: tuple[int, int], cell: int, side: int) -> np.ndarray:
    """Which part of each cell a mask (height, width) covers, in [0, 1]: float64 (side, side). Arguments as of
    [`area_averaged_masks`]."""
    height, width = mask.shape
    edges = np.arange(side + 1) * cell
    # Edges of the cells in pixels of the image; beyond it nothing is added.
    covered = _sums_between(mask.astype(np.float64), edges * (height / valid[0]), axis=0)  # (side, width)
    covered = _sums_between(covered, edges * (width / valid[1]), axis=1)  # (side, side), px of the image
    return covered * (valid[0] / height) * (valid[1] / width) / cell**2


def _sums_between(values: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    """Integrals of a piecewise constant function between consecutive edges, along one axis."""
    running = np.cumsum(values, axis=axis)
    running = np.concatenate([np.zeros_like(running.take([0], axis=axis)), running], axis=axis)
    length = values.shape[axis]
    edges = np.minimum(edges, length)
    low = np.minimum(edges.astype(int), length - 1)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    weight = (edges - low).reshape(shape)
    at_edges = (1 - weight) * running.take(low, axis=axis) + weight * running.take(low + 1, axis=axis)
    return np.diff(at_edges, axis=axis)
