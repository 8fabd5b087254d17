"""The heads that are read, by their id: what each says of the images of a batch.

``yolov8-seg/1`` ends in boxes: see :mod:`segx_task_segment.decode`.

``yolov8-seg-raw/1`` ends before they are made, for A anchors of all levels, row by row, finest level first: ``boxes``
(N, 4 * bins, A), logits of the distances to left, top, right and bottom, in cells; ``scores`` (N, nc, A) in 0..1;
``coefficients`` (N, nm, A); ``prototypes`` (N, nm, h, w). ``info.decoding`` holds ``strides`` and ``bins``.

``yolov8-seg-final/1`` ends after suppression: ``detections`` (N, rows, 6 + nm): x1, y1, x2, y2 in input pixels, score,
class, coefficients, of which those that score 0 mean nothing; ``prototypes`` (N, nm, h, w). ``info.decoding`` holds the
``conf``, ``iou`` and ``max_det`` it was made with, where that is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError, UsageError
from segx.ops.arrays import to_numpy
from segx_task_segment.decode import ANY_SIZE, Detections, detect, detect_lazily, read_outputs, without_noise
from segx_task_segment.plugin import HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import DecodeOptions
    from segx.plugin.specs import Form

    _Reader = Callable[[Sequence[Any], tuple[int, int], ArtifactInfo, DecodeOptions], Iterator[tuple["Found", int]]]

Found = tuple[Detections, "NDArray[np.float32]"]
"""The objects of an image, and its prototypes, float32 (nm, h, w)."""

_MOST = 4096
"""What no stride and no number of bins reaches."""
_BOX = 6
"""Numbers of a finished row before its coefficients."""
_FORMS: Mapping[str, Form] = {head.id: head.form for head in HEADS}


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
        raise _not_of(info, (boxes, scores, coefficients, prototypes))
    points, pixels = _anchors(cells, strides)
    for logits, probabilities, factors, maps in zip(
        boxes, scores, coefficients, without_noise(prototypes), strict=True
    ):

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
    whole = [number for number in given if isinstance(number, int) and 0 < number <= _MOST]
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
    rows, prototypes = _ordered(outputs, info)
    nc = len(info.names) or int(np.nan_to_num(rows[..., 5], posinf=0).max(initial=0)) + 1
    for numbers, maps in zip(rows, without_noise(prototypes), strict=True):
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


def _ordered(outputs: Sequence[Any], info: ArtifactInfo) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the rows and the prototypes, in whichever order a tool has written them.

    Raises:
        ModelError: The outputs are not those of this head.
    """
    arrays = [np.asarray(to_numpy(output), dtype=np.float32) for output in outputs]
    flat = [array for array in arrays if array.ndim == 3]
    maps = [array for array in arrays if array.ndim == 4]
    fits = len(arrays) == 2 and len(flat) == 1 and len(flat[0]) == len(maps[0])
    if not fits or flat[0].shape[2] != _BOX + maps[0].shape[1]:
        raise _not_of(info, arrays)
    return flat[0], maps[0]


def _named(outputs: Sequence[Any], info: ArtifactInfo, *names: str) -> list[NDArray[np.float32]]:
    """Return outputs in the order of these names, or as they come where they are called otherwise.

    Raises:
        ModelError: There are more or fewer.
    """
    arrays = [np.asarray(to_numpy(output), dtype=np.float32) for output in outputs]
    if len(arrays) != len(names):
        raise _not_of(info, arrays)
    by_name = dict(zip(info.outputs, arrays, strict=False))
    return [by_name[name] for name in names] if by_name.keys() == set(names) else arrays


def _not_of(info: ArtifactInfo, arrays: Sequence[NDArray[np.float32]]) -> ModelError:
    shapes = ", ".join(str(array.shape) for array in arrays)
    more = f" with {len(info.names)} classes" if info.names else ""
    return ModelError(f"outputs of shape {shapes} are not those of head {info.head!r}{more}")


_READERS: Mapping[Form, _Reader] = {"decoded": _decoded, "raw": _raw, "final": _final}
