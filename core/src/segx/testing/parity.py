"""Compares what two models say, so that a failure names the output, the place and the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.flows.runner import infer
from segx.ops.arrays import to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx.options.verbs import DecodeOptions
    from segx.plugin.interfaces import Session, Task
    from segx.structures.types import Images
    from segx.testing.scenes import Scene

RAW_TOLERANCE = {"fp32": 2e-4, "fp16": 2e-2}
"""Largest difference of a raw output by precision, as a fraction of the largest value of that output."""


def assert_same_outputs(
    got: Sequence[Any], wanted: Sequence[Any], *, names: Sequence[str], precision: str = "fp32"
) -> None:
    """Fail when two models' raw outputs differ in number, shape, or by more than the precision explains."""
    assert len(got) == len(wanted), f"{len(got)} outputs, expected {len(wanted)}: {', '.join(names)}"
    tolerance = RAW_TOLERANCE[precision]
    for name, ours, theirs in zip(names, map(to_numpy, got), map(to_numpy, wanted), strict=True):
        assert ours.shape == theirs.shape, f"{name} has shape {ours.shape}, the source's {theirs.shape}"
        assert np.isfinite(ours).all(), f"{name} holds values that are no numbers"
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        allowed = tolerance * max(1.0, float(np.abs(theirs).max()))
        where = np.unravel_index(int(difference.argmax()), difference.shape)
        assert difference.max() <= allowed, (
            f"{name}{list(map(int, where))} differs by {difference.max()}, at most {allowed}"
        )


LIKENESS = 0.8
"""Smallest correlation between how two models' outputs change from one image to another. Quantising to 8 bits costs a
few hundredths; a model that no longer sees its input has none."""


CLOSENESS = 0.5
"""Largest error of a channel (a side of the boxes, the scores of a class), as a fraction of how much it varies at all.
Quantising to 8 bits costs a tenth of it; scores that share the step of boxes in pixels, or are halved, cost all."""


def assert_follows(
    got: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]], *, names: Sequence[str], least: float = LIKENESS
) -> None:
    """Fail when a model does not answer to what it sees as its source does, however coarse its numbers are.

    What all images have in common is left out of both: that much a model says which sees nothing.

    Args:
        got: The outputs of the model for each of several images.
        wanted: Those of its source.
        names: Names of the outputs.
        least: Smallest correlation.
    """
    for index, name in enumerate(names):
        ours = np.stack([to_numpy(outputs[index]).astype(np.float64) for outputs in got])
        theirs = np.stack([to_numpy(outputs[index]).astype(np.float64) for outputs in wanted])
        assert ours.shape == theirs.shape, f"{name} has shape {ours.shape[1:]}, the source's {theirs.shape[1:]}"
        assert np.isfinite(ours).all(), f"{name} holds values that are no numbers"
        mine, source = (values - values.mean(axis=0) for values in (ours, theirs))
        spread = float(np.linalg.norm(mine) * np.linalg.norm(source))
        likeness = float((mine * source).sum()) / spread if spread else 0.0
        assert likeness >= least, f"{name} follows its source by {likeness:.3f}, wanted {least}"
        _assert_channels_close(ours, theirs, name)


def _assert_channels_close(ours: NDArray[np.float64], theirs: NDArray[np.float64], name: str) -> None:
    """Fail when a channel of (images, N, C, ...) is far off, which one with large numbers beside it would hide."""
    every = tuple(axis for axis in range(theirs.ndim) if axis != 2)
    error = np.sqrt(((ours - theirs) ** 2).mean(axis=every))
    varies = theirs.std(axis=every)
    share = np.divide(
        error, varies, out=np.zeros_like(error), where=varies > 1e-6 * max(1.0, float(np.abs(theirs).max()))
    )
    worst = int(share.argmax())
    assert share[worst] <= CLOSENESS, f"{name}: channel {worst} is off by {share[worst]:.2f} of how much it varies"


def predict(
    task: Task, session: Session, scenes: Sequence[Scene], *, shape: tuple[int, int], options: DecodeOptions
) -> list[Any]:
    """Return what a session finds in images: the three steps that every verb takes."""
    batch = task.preprocess([scene.source for scene in scenes], shape)
    return task.decode(infer(session, batch.images), batch, session.info, options)


def run_twice(session: Session, images: Images) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return the outputs of two runs of the same images, copied in between."""
    first = [to_numpy(output).copy() for output in session.run(images)]
    return first, [to_numpy(output).copy() for output in session.run(images)]
