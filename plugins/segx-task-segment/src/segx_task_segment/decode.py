"""Raw outputs into objects in the input's pixels, image by image, by the head the model's info names.

``yolov8-seg/1`` ends in boxes. ``output0`` (N, 4 + nc + nm, A): for each anchor centre x, centre y, width, height in
input pixels, nc class scores in 0..1, nm mask coefficients. ``output1`` (N, nm, h, w): prototypes. Formats that come by
way of TensorFlow give the two in either order and with channels last; the shapes say which is which.

``yolov8-seg-raw/1`` ends before boxes are made, for A anchors of all levels, row by row, finest level first: ``boxes``
(N, 4 * bins, A), logits of the distances to left, top, right and bottom, in cells; ``scores`` (N, nc, A) in 0..1;
``coefficients`` (N, nm, A); ``prototypes`` (N, nm, h, w). ``info.decoding`` holds ``strides`` and ``bins``.

``yolov8-seg-final/1`` ends after suppression: ``detections`` (N, rows, 6 + nm): x1, y1, x2, y2 in input pixels, score,
class, coefficients, of which those that score 0 mean nothing; ``prototypes`` (N, nm, h, w). ``info.decoding`` holds the
``conf``, ``iou`` and ``max_det`` it was made with, where that is known.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError, UsageError
from segx.ops.arrays import to_numpy
from segx.ops.nms import nms
from segx.records import Record
from segx.words import counted
from segx_task_segment.plugin import HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import DecodeOptions
    from segx.plugin.specs import Form

    _Reader = Callable[[Sequence[Any], tuple[int, int], ArtifactInfo, DecodeOptions], Iterator[tuple["Found", int]]]

MAX_CANDIDATES = 30_000
"""Candidates that enter suppression, the best ones."""

_USUAL_LEVELS, _MAX_LEVELS = 3, 8
_COARSEST_FIRST = 3
"""Of several levels the finest has at most four times the prototypes' stride: number 0 is twice as fine as they are."""

ANY_SIZE = 1e9
"""What no number of an object reaches: a box of a billion pixels."""

_MANY = 500
"""Anchors from which it is quicker to look at all numbers in a row than at theirs."""

_MAX = 4096
"""What no stride and no number of bins reaches."""

_BOX = 6
"""Numbers of a finished row before its coefficients."""

_FORMS: Mapping[str, Form] = {head.id: head.form for head in HEADS}


class RawOutputs(Record, kw_only=False):
    """The outputs of a batch in one layout.

    Attributes:
        predictions: float32 (B, 4 + nc + nm, A).
        prototypes: float32 (B, nm, h, w).
        nc: Number of classes.
    """

    predictions: NDArray[np.float32]
    prototypes: NDArray[np.float32]
    nc: int


class Detections(Record, kw_only=False):
    """What was found in one image, best first.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the network input.
        scores: float32 (N,).
        classes: int (N,).
        coefficients: float32 (N, nm).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    coefficients: NDArray[np.float32]


Found = tuple[Detections, "NDArray[np.float32]"]
"""The objects of an image, and its prototypes, float32 (nm, h, w)."""


def read(
    outputs: Sequence[Any], shape: tuple[int, int], info: ArtifactInfo, options: DecodeOptions
) -> Iterator[tuple[Found, int]]:
    """Return, for each image, what was found, its prototypes and the number of classes the outputs have.

    Args:
        outputs: Of the network, in the order of ``info.outputs``.
        shape: (height, width) of the network's input.
        info: What is known of the model: its head, and the numbers that reading it needs.
        options: What counts as found.

    Raises:
        ModelError: The head is not known, or the outputs are not its.
    """
    form = _FORMS.get(info.head)
    if form is None:
        raise ModelError(f"head {info.head!r} is not known", hint=f"known heads: {', '.join(_FORMS)}")
    return _READERS[form](outputs, shape, info, options)


def limits(info: ArtifactInfo, options: DecodeOptions) -> DecodeOptions:
    """Return the options nearest to these that a finished graph still lets one choose."""
    if _FORMS.get(info.head) != "final":
        return options
    own = _settled(info)
    return options.replace(
        conf=max(options.conf, own.get("conf", 0.0)),
        iou=own.get("iou", type(options)().iou),
        max_det=min(options.max_det, int(own.get("max_det", options.max_det))),
        agnostic_nms=False,
        multi_label=False,
    )


def check(info: ArtifactInfo, options: DecodeOptions) -> None:
    """Refuse what a finished graph no longer lets one choose.

    Raises:
        UsageError: With the option, and what the file does.
    """
    nearest = limits(info, options)
    if nearest == options:
        return
    own = _settled(info)
    said = {
        "conf": f"the file keeps {own.get('conf')} and more",
        "iou": f"the file suppresses at {own['iou']}" if "iou" in own else "the file suppresses by itself",
        "max_det": f"the file keeps {own.get('max_det')} at most",
        "agnostic_nms": "the file suppresses within classes",
        "multi_label": "the file keeps the best class of a box",
    }
    name = next(name for name in said if getattr(nearest, name) != getattr(options, name))
    wanted = getattr(options, name)
    hint = "leave it out, or use a file that was exported with nms=False"
    raise UsageError(f"{name}={wanted}: {said[name]}", hint=hint)


def _settled(info: ArtifactInfo) -> dict[str, float]:
    """Return what a file says of how it suppresses, as far as these are numbers."""
    wanted = {name: info.decoding.get(name) for name in ("conf", "iou", "max_det")}
    return {name: value for name, value in wanted.items() if isinstance(value, int | float) and 0 <= value < ANY_SIZE}


def _decoded(
    outputs: Sequence[Any], _shape: tuple[int, int], info: ArtifactInfo, options: DecodeOptions
) -> Iterator[tuple[Found, int]]:
    raw = read_outputs(outputs, len(info.names))
    for predictions, prototypes in zip(raw.predictions, raw.prototypes, strict=True):
        yield (detect(predictions, raw.nc, options), prototypes), raw.nc


def read_outputs(outputs: Sequence[Any], nc: int) -> RawOutputs:
    """Return the outputs of the head ``yolov8-seg/1`` in one layout.

    Args:
        outputs: Predictions and prototypes, in either order, channels first or last.
        nc: Number of classes the model knows; 0 when it does not say.

    Raises:
        ModelError: The shapes are not those of this head.
    """
    arrays = _arrays(outputs)
    pair = _pair(arrays)
    layout = None if pair is None else _layout(pair[0].shape, pair[1].shape, nc)
    if pair is None or layout is None:
        raise _not_of(
            "a yolov8-seg head", arrays, nc, f"(N, {4 + nc if nc else 'classes + 4'} + k, anchors) and (N, k, h, w)"
        )
    predictions = pair[0] if layout.channels == 1 else pair[0].swapaxes(1, 2)
    prototypes = pair[1] if layout.map_channels == 1 else np.ascontiguousarray(pair[1].transpose(0, 3, 1, 2))
    return RawOutputs(predictions, prototypes, layout.nc)


class _Layout(Record, kw_only=False):
    channels: int
    map_channels: int
    nc: int


@functools.lru_cache(maxsize=64)
def _layout(predictions: tuple[int, ...], prototypes: tuple[int, ...], nc: int) -> _Layout | None:
    """Return which axes hold the channels: the first reading in which the numbers add up, or None.

    Anchors and prototypes have to belong to one input: as many anchors as levels of it have cells. Readings with three
    levels, as most models have, come first.
    """
    readings: list[tuple[bool, _Layout]] = []
    for channels in (1, 2):
        for map_channels in (1, 3):
            classes = predictions[channels] - 4 - prototypes[map_channels]
            height, width = (prototypes[axis] for axis in (1, 2, 3) if axis != map_channels)
            levels = _levels(predictions[3 - channels], height, width)
            # Rows of one level alone, channels last, may be what is left after suppression: (N, 300, 4 + 2 + nm).
            fewest = 1 if channels == 1 and nc else 2
            if classes > 0 and nc in {0, classes} and levels >= fewest:
                readings.append((levels != _USUAL_LEVELS, _Layout(channels, map_channels, classes)))
    return min(readings, key=lambda reading: reading[0])[1] if readings else None


def _levels(anchors: int, height: int, width: int) -> int:
    """Return on how many levels so many anchors lie, one in each cell, each level half as fine; 0: on no such levels.

    Args:
        anchors: Their number.
        height: Rows of the prototypes; the finest level may be twice as fine as they are.
        width: Columns of the prototypes.
    """
    cells = [-(-2 * height // 2**level) * -(-2 * width // 2**level) for level in range(_MAX_LEVELS)]
    runs = (
        stop - start
        for start in range(len(cells))
        for stop in range(start + 1, len(cells) + 1)
        if sum(cells[start:stop]) == anchors and (start <= _COARSEST_FIRST or stop - start == 1)
    )
    return min(runs, key=lambda count: abs(count - _USUAL_LEVELS), default=0)


def _raw(
    outputs: Sequence[Any], shape: tuple[int, int], info: ArtifactInfo, options: DecodeOptions
) -> Iterator[tuple[Found, int]]:
    boxes, scores, coefficients, prototypes = _named(outputs, info, "boxes", "scores", "coefficients", "prototypes")
    strides, bins = _numbers(info)
    rows = [len(boxes), len(scores), len(coefficients), len(prototypes)]
    flat = boxes.ndim == scores.ndim == coefficients.ndim == 3 and prototypes.ndim == 4 and len(set(rows)) == 1
    cells = [(shape[0] // stride, shape[1] // stride) for stride in strides]
    count = sum(height * width for height, width in cells)
    fits = flat and (
        boxes.shape[1:] == (4 * bins, count)
        and scores.shape[2] == coefficients.shape[2] == count
        and scores.shape[1] == (len(info.names) or scores.shape[1])
        and coefficients.shape[1] == prototypes.shape[1]
    )
    if not fits:
        shapes = (
            f"(N, {4 * bins}, {count}), (N, {len(info.names) or 'classes'}, {count}), (N, k, {count}), (N, k, h, w)"
        )
        raise _not_of(f"head {info.head!r}", (boxes, scores, coefficients, prototypes), len(info.names), shapes)
    points, pixels = _anchors(cells, strides)
    for logits, probabilities, factors, maps in zip(boxes, scores, coefficients, prototypes, strict=True):

        def corners(anchors: NDArray[np.int64], logits: NDArray[np.float32] = logits) -> NDArray[np.float32]:
            """Return boxes of some anchors only: few score enough, and a softmax over bins costs much."""
            near, far = np.split(_distances(logits[:, anchors], bins), 2)
            at = points[:, anchors]
            return np.concatenate([at - near, at + far]).T * pixels[anchors, None]

        def sound(
            anchors: NDArray[np.int64],
            parts: tuple[NDArray[np.float32], ...] = (logits, probabilities, factors),
        ) -> NDArray[np.bool_]:
            return np.asarray(np.all([(np.abs(part[:, anchors]) < ANY_SIZE).all(axis=0) for part in parts], axis=0))

        found = detect_lazily(probabilities, options, corners=corners, coefficients=factors, sound=sound)
        yield (found, maps), len(probabilities)


def _numbers(info: ArtifactInfo) -> tuple[list[int], int]:
    """Return the strides and the bins that an info names.

    Raises:
        ModelError: It names none, or none that make sense.
    """
    strides, bins = info.decoding.get("strides"), info.decoding.get("bins")
    given = [*strides, bins] if isinstance(strides, list | tuple) and strides else []
    whole = [number for number in given if isinstance(number, int) and 0 < number <= _MAX]
    if not given or len(whole) != len(given):
        msg = f"head {info.head!r} is read with strides and bins; the metadata say {dict(info.decoding)}"
        raise ModelError(msg, hint="export it again")
    return whole[:-1], whole[-1]


def _anchors(
    cells: Sequence[tuple[int, int]], strides: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the centres of all cells, float32 (2, A) in cells of their level, and their sides, (A,) in pixels."""
    points, pixels = [], []
    for (height, width), stride in zip(cells, strides, strict=True):
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        points.append(np.stack([x, y]).astype(np.float32) + np.float32(0.5))
        pixels.append(np.full(height * width, stride, np.float32))
    return np.concatenate(points, axis=1), np.concatenate(pixels)


def _distances(logits: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Return float32 (4, n), the expectation over the bins of logits (4 * bins, n)."""
    shares = logits.reshape(4, bins, -1)
    shares = np.exp(shares - shares.max(axis=1, keepdims=True))
    places = np.arange(bins, dtype=np.float32)
    expected: NDArray[np.float32] = np.einsum("kbn,b->kn", shares, places) / shares.sum(axis=1)
    return expected


def _final(
    outputs: Sequence[Any], _shape: tuple[int, int], info: ArtifactInfo, options: DecodeOptions
) -> Iterator[tuple[Found, int]]:
    arrays = _arrays(outputs)
    pair = _pair(arrays)
    if pair is None or pair[0].shape[2] != _BOX + pair[1].shape[1]:
        raise _not_of(f"head {info.head!r}", arrays, len(info.names), "(N, objects, 6 + k) and (N, k, h, w)")
    rows, prototypes = pair
    nc = len(info.names) or int(np.nan_to_num(rows[..., 5], posinf=0).max(initial=0)) + 1
    for numbers, maps in zip(rows, prototypes, strict=True):
        scores, classes = numbers[:, 4], numbers[:, 5]
        wanted = (scores > options.conf) & (np.abs(numbers) < ANY_SIZE).all(axis=1) & (classes >= 0) & (classes < nc)
        if options.classes is not None:
            wanted &= np.isin(classes, options.classes)
        kept = np.flatnonzero(wanted)
        kept = kept[np.argsort(-scores[kept], kind="stable")][: options.max_det]
        chosen = numbers[kept]
        boxes, factors = chosen[:, :4], chosen[:, _BOX:]
        found = Detections(
            np.ascontiguousarray(boxes), chosen[:, 4], chosen[:, 5].astype(np.int64), np.ascontiguousarray(factors)
        )
        yield (found, maps), nc


def _arrays(outputs: Sequence[Any]) -> list[NDArray[np.float32]]:
    return [np.asarray(to_numpy(output), dtype=np.float32) for output in outputs]


def _pair(arrays: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return objects and prototypes, in whichever order a tool has written them; None if these are not they."""
    by_axes = {array.ndim: array for array in arrays}
    if len(arrays) != 2 or by_axes.keys() != {3, 4} or len(by_axes[3]) != len(by_axes[4]):
        return None
    return by_axes[3], by_axes[4]


def _named(outputs: Sequence[Any], info: ArtifactInfo, *names: str) -> list[NDArray[np.float32]]:
    """Return outputs in the order of these names, or as they come where they are called otherwise.

    Raises:
        ModelError: There are more or fewer.
    """
    arrays = _arrays(outputs)
    if len(arrays) != len(names):
        raise _not_of(f"head {info.head!r}", arrays, len(info.names), f"{len(names)} outputs: {', '.join(names)}")
    by_name = dict(zip(info.outputs, arrays, strict=False))
    return [by_name[name] for name in names] if by_name.keys() == set(names) else arrays


def _not_of(head: str, arrays: Sequence[NDArray[np.float32]], nc: int, wanted: str) -> ModelError:
    """Return the error for outputs of another head, or of another number of classes, than the metadata say.

    Args:
        head: What the metadata say.
        arrays: What came.
        nc: Number of classes that the metadata name, 0 where they name none.
        wanted: The shapes of such a head.
    """
    pair = _pair(arrays)
    other = None if pair is None or not nc else _layout(pair[0].shape, pair[1].shape, 0)
    found = f", but of one with {other.nc}" if other is not None and "final" not in head else ""
    shapes = ", ".join(str(array.shape) for array in arrays)
    named = f" with {counted(nc, 'class')}" if nc else ""
    return ModelError(
        f"outputs of shape {shapes} are not those of {head}{named}{found}",
        hint=f"such a head gives {wanted}: the metadata (names, head) are of another model; export it again, or give "
        "it the metadata that belong to it",
    )


def detect(predictions: NDArray[np.float32], nc: int, options: DecodeOptions) -> Detections:
    """Return the objects of one image.

    Args:
        predictions: float32 (4 + nc + nm, A).
        nc: Number of classes.
        options: ``conf iou max_det classes agnostic_nms multi_label``. A score counts when it is above ``conf``.
    """

    def corners(anchors: NDArray[np.int64]) -> NDArray[np.float32]:
        centre, half = predictions[0:2, anchors].T, predictions[2:4, anchors].T / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def sound(anchors: NDArray[np.int64]) -> NDArray[np.bool_]:
        if len(anchors) > _MANY and predictions.min() > -ANY_SIZE and predictions.max() < ANY_SIZE:
            return np.ones(len(anchors), np.bool_)
        return np.asarray((np.abs(predictions[:, anchors]) < ANY_SIZE).all(axis=0))

    return detect_lazily(
        predictions[4 : 4 + nc], options, corners=corners, coefficients=predictions[4 + nc :], sound=sound
    )


def detect_lazily(
    scores: NDArray[np.float32],
    options: DecodeOptions,
    *,
    corners: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    coefficients: NDArray[np.float32],
    sound: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> Detections:
    """Return the objects of one image, of whose boxes only those are made that score enough.

    Args:
        scores: float32 (nc, A).
        options: As for :func:`detect`.
        corners: Returns the boxes of some anchors, float32 (n, 4), x1, y1, x2, y2.
        coefficients: float32 (nm, A).
        sound: Returns which of some anchors have finite boxes, scores and coefficients, bool (n,).
    """
    best_scores, classes, anchors = _candidates(scores, options, sound)
    best = np.argsort(-best_scores, kind="stable")[:MAX_CANDIDATES]
    best_scores, classes, anchors = best_scores[best], classes[best], anchors[best]
    boxes = corners(anchors)
    groups = None if options.agnostic_nms else classes
    kept = nms(boxes, best_scores, groups, iou=options.iou, max_det=options.max_det)
    chosen = np.ascontiguousarray(coefficients[:, anchors[kept]].T)
    return Detections(boxes[kept], best_scores[kept], classes[kept], chosen)


def _candidates(
    scores: NDArray[np.float32], options: DecodeOptions, sound: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return score, class and anchor of whatever is above ``conf``: for each anchor the best class, or each class.

    Anchors whose box, scores or coefficients are not finite are left out.
    """
    if options.multi_label:
        flat = np.flatnonzero(scores > options.conf)  # ten times quicker than nonzero of two axes
        classes = flat // scores.shape[1]
        anchors = flat - classes * scores.shape[1]
    else:
        anchors = np.flatnonzero(scores.max(axis=0) > options.conf)
        classes = scores[:, anchors].argmax(axis=0)
    if options.classes is not None:
        wanted = np.isin(classes, options.classes)
        classes, anchors = classes[wanted], anchors[wanted]
    fine = sound(anchors)
    if not fine.all():  # an object that is not finite is none, and would take its neighbours with it
        classes, anchors = classes[fine], anchors[fine]
    return scores[classes, anchors], classes, anchors


_READERS: Mapping[Form, _Reader] = {"decoded": _decoded, "raw": _raw, "final": _final}
