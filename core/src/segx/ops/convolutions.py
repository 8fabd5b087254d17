"""What two convolutions in a row come to, in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDES = 2
"""Places in a cell, along each axis."""


class Joined(NamedTuple):
    """A transposed convolution of 2x2 and stride 2, and one of 3x3 behind it, as convolutions of 2x2 over cells.

    Nothing lies between the two, so both together are linear. A pixel of the doubled maps sees, through the 3x3, nine
    of its neighbours, which come from four cells only: a convolution of 2x2 over the cells does it, another one for
    each of the four places (i, j) that a pixel may have in its cell. A cell takes 16 products for each pair of channels
    instead of 40.

    With a ring of nothing around the cells there are H + 1 by W + 1 windows of 2x2; the pixel (2y + i, 2x + j) is what
    the window that begins i rows and j columns after (y - 1, x - 1) means for the place (i, j).

    Attributes:
        kernels: float64 (2, 2, outputs, inputs, 2, 2), for each place.
        ones: float64 (2, 2, outputs, 2, 2): the same for a map of ones, of what the bias of the doubling adds. Beyond
            the edge, where the 3x3 sees nothing, it adds nothing.
    """

    kernels: NDArray[np.float64]
    ones: NDArray[np.float64]


def joined(doubling: NDArray[np.floating], bias: NDArray[np.floating], kernel: NDArray[np.floating]) -> Joined:
    """Return what the two layers come to.

    Args:
        doubling: (inputs, hidden, 2, 2), of the transposed convolution.
        bias: (hidden,), its bias.
        kernel: (outputs, hidden, 3, 3), of the convolution, whose own bias stays what it is.

    Infinities, as a training that has failed leaves them, are computed with in silence.
    """
    inner, outer = doubling.astype(np.float64), kernel.astype(np.float64)
    places = (_SIDES, _SIDES, len(outer))
    found = Joined(np.zeros((*places, len(inner), 2, 2)), np.zeros((*places, 2, 2)))
    with np.errstate(invalid="ignore"):
        for i, j, row, column in np.ndindex(_SIDES, _SIDES, 3, 3):
            tap = outer[:, :, row, column]
            down, across = i + row - 1, j + column - 1  # of the doubled maps, from the cell's first
            cell = down // _SIDES + 1 - i, across // _SIDES + 1 - j
            found.kernels[i, j, :, :, *cell] += tap @ inner[:, :, down % _SIDES, across % _SIDES].T
            found.ones[i, j, :, *cell] += tap @ bias.astype(np.float64)
    return found
