"""Proves that two models are the same one: the same images through both, raw outputs and found objects compared.

A model that was exported is judged by its format's :class:`~segx.plugin.specs.Tolerance`. Raw outputs always count.
Objects count too, at a score low enough that there are some, for an image in which nothing is found proves nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from segx.artifact import Artifact
from segx.flows.runner import infer
from segx.options.verbs import DecodeOptions, SessionOptions
from segx.plugin.calibration import synthetic_images
from segx.plugin.registry import get_registry
from segx.plugin.specs import Tolerance
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo, Parity
    from segx.options.verbs import VerifyOptions
    from segx.plugin.interfaces import Session, Task
    from segx.plugin.registry import Registry
    from segx.plugin.specs import BackendSpec, ExporterSpec
    from segx.structures.batch import Batch, SourceImage
    from segx.structures.results import Results

USUAL_SCORE = 0.25
FEWEST_OBJECTS, MAX_OBJECTS = 8, 100
"""How many objects all images of a run, or all images, should have together."""

MAX_CHOICES = 1000
"""Boxes, kept and suppressed, that an object of the other side is looked for among."""

SLACK = 4
"""How many more may be taken to reach a gap between scores."""

MEANINGFUL_SCORE = 0.01
"""Objects that score less are noise, as all of an untrained model's are: their order and outlines mean nothing."""

_CERTAIN = 1.645
"""Standard deviations that 95 % of a normal distribution lie below."""

SMALLEST_RANGE = 1e-3
"""Channels that stay below count as reaching it: runtimes round the far tails of a sigmoid as they like."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What comparing two models gave.

    Attributes:
        parity: The figures.
        relative: For each raw output, the largest difference as a fraction of the largest value in its channel.
        problems: What is outside the tolerance, in words; empty when nothing is.
        has_detections: Whether the source found objects that mean something, so that they count.
        doubt: Why nothing is proven though nothing is wrong: there was nothing to compare, or too little; else empty.
        ties: Whether the two kept different ones of boxes that score alike, so that objects were compared with what
            the other side had to choose from.
    """

    parity: Parity
    relative: dict[str, float]
    problems: tuple[str, ...]
    has_detections: bool
    doubt: str = ""
    ties: bool = False

    @property
    def holds(self) -> bool:
        """Whether enough was compared, and everything is within the tolerance."""
        return not self.doubt and not self.problems


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The same images through both models."""

    batch: Batch
    reference: tuple[NDArray[np.float32], ...]
    other: tuple[NDArray[np.float32], ...]


def verify(
    artifact: Artifact,
    reference: Artifact | Session,
    *,
    images: Sequence[SourceImage] = (),
    tolerance: Tolerance | None = None,
    device: str | None = None,
    backend: str | None = None,
    registry: Registry | None = None,
) -> Proof:
    """Compare a model on disk with the model it was made from.

    Args:
        artifact: The model to prove.
        reference: Its source.
        images: Images to prove it on, besides the drawn ones.
        tolerance: How far they may be apart; default: what the format allows for the file's precision.
        device: Where both run; default: on the CPU where the runtime has one.
        backend: The runtime of the model to prove, by name; default: the best installed for its format.
        registry: Where to look things up; default: the installed plugins.

    Raises:
        MissingPluginError: No backend for one of the formats is installed.
        ModelError: One of them cannot be opened or run.
    """
    registry = registry or get_registry()
    with contextlib.ExitStack() as stack:
        source = opened(stack, reference, registry, device) if isinstance(reference, Artifact) else reference
        made = opened(stack, artifact, registry, device, backend=backend)
        allowed = tolerance or tolerance_of(registry.exporters.find(artifact.format), made.info.precision)
        task = registry.tasks.load(source.info.task)
        return prove(source, made, task=task, tolerance=allowed, images=images)


def images_of(options: VerifyOptions, registry: Registry) -> list[SourceImage]:
    """Return images of the data set that the options name, spread evenly over it; none where they name none.

    Raises:
        DataError: The data set is not there, or one of the images cannot be read.
    """
    if not options.data:
        return []
    from segx.flows.calibration import paths_of, spread
    from segx.io.images import read_image
    from segx.structures.batch import SourceImage

    paths = spread(paths_of(options.data, options, registry), options.most)
    return [SourceImage(image=read_image(path), path=str(path)) for path in paths]


def opened(
    stack: contextlib.ExitStack,
    artifact: Artifact,
    registry: Registry,
    device: str | None,
    *,
    backend: str | None = None,
) -> Session:
    """Return a model that is open until the stack is closed: on the CPU, where no device is named and there is one."""
    spec = registry.backend_for(artifact.format, name=backend, device=device)
    session = registry.backends.load(spec).open(artifact, SessionOptions(device=device or _quiet_device(spec)))
    stack.callback(session.close)
    return session


def _quiet_device(spec: BackendSpec) -> str | None:
    """Return the CPU where the runtime has one: figures are the same on every machine then."""
    return "cpu" if "cpu" in spec.devices else None


def tolerance_of(spec: ExporterSpec | None, precision: str) -> Tolerance:
    """Return how far a file of a format and precision may be from its source."""
    return Tolerance() if spec is None else spec.tolerance.get(precision, Tolerance())


def prove(
    reference: Session,
    other: Session,
    *,
    task: Task,
    tolerance: Tolerance,
    images: Sequence[SourceImage] = (),
) -> Proof:
    """Run the same images through two models and compare.

    Args:
        reference: The source; it takes every shape that ``other`` takes.
        other: The model to prove.
        task: The task of both.
        tolerance: How far they may be apart.
        images: Images to add to the drawn ones.

    Raises:
        ModelError: One of them cannot run, or their outputs cannot be read.
    """
    runs = [_run(reference, other, batch) for batch in _batches(task, other.info, images)]
    absolute, relative = _compare_raw(runs, reference.info, other.info)
    readable = {reference.info.head, other.info.head} <= set(task.heads)
    found = _find_objects(task, runs, reference.info, other.info) if readable else []
    meaningful = any(item.meaningful for item in found)
    judged = [item for item in found if item.meaningful == meaningful]
    quality, objects = _quality(task, judged)
    parity = dataclasses.replace(task.parity(*_both(judged)), quality=quality)
    problems = tuple(_raw_problems(runs, relative, tolerance))
    wrong = tuple(_object_problems(parity, tolerance)) if meaningful else ()
    ties = False
    if wrong and not problems and tolerance.score < 1:  # where any score will do, anything would be a counterpart
        settled = dataclasses.replace(_settle(task, judged, tolerance), quality=quality)
        still = tuple(_object_problems(settled, tolerance))
        ties = not still
        parity, wrong = (settled, ()) if ties else (parity, wrong)
    problems, doubt = (*problems, *wrong), ""
    if meaningful and tolerance.quality is not None:
        low, high = _bounds(quality, objects)
        if high < tolerance.quality:
            problems += (
                f"masks match by {quality:.3f} (mean IoU, 0 for what is missed), wanted {tolerance.quality:g}",
            )
        elif low < tolerance.quality:
            few, wanted = counted(round(objects), "object"), f"{tolerance.quality:g}"
            doubt = (
                f"{few} are too few to say that masks match by {wanted} (mean IoU, 0 for what is missed): it is "
                f"{quality:.3f}, {low:.2f} to {high:.2f}; compare more: segx verify model=... reference=... data=..."
            )
    elif not meaningful and not set(reference.info.outputs) <= relative.keys():
        heads = f"{reference.info.head} and {other.info.head}"
        doubt = f"nothing could be compared: no objects are found, and raw outputs of {heads} share too little"
    return Proof(
        parity=dataclasses.replace(parity, images=sum(len(each.batch.sources) for each in runs), raw=absolute),
        relative=relative,
        problems=problems,
        has_detections=meaningful,
        doubt=doubt,
        ties=ties,
    )


def describe(parity: Parity) -> str:
    """Return the figures in one line for people."""
    raw = ", ".join(f"{name} {value:.2g}" for name, value in parity.raw.items())
    outputs = f"raw outputs within {raw}" if raw else "raw outputs are of other kinds"
    return (
        f"{parity.images} images, {parity.objects} objects, {parity.matched:.1%} matched: "
        f"boxes within {parity.box:.2g} px (median {parity.typical_box:.2g}), scores within {parity.score:.2g}, "
        f"mask IoU at least {parity.mask_iou:.4f} (mean with what is missed {parity.quality:.3f}); {outputs}"
    )


def _batches(task: Task, info: ArtifactInfo, images: Sequence[SourceImage]) -> Iterator[Batch]:
    """Yield the runs: the size and batch the model is for, and where axes are open, others."""
    chosen = [*synthetic_images(info.imgsz), *images]
    filled = -(-len(chosen) // info.batch) * info.batch
    chosen = list(islice(cycle(chosen), filled))
    for first in range(0, filled, info.batch):
        yield task.preprocess(chosen[first : first + info.batch], info.imgsz)
    if info.dynamic:
        count = info.batch + 1 if "batch" in info.dynamic else info.batch
        shape = _another_shape(info)
        yield task.preprocess(synthetic_images(shape, count), shape)


def _another_shape(info: ArtifactInfo) -> tuple[int, int]:
    """Return a size that differs along the open axes, and not in proportion."""
    height, width = info.imgsz
    lower = max(info.stride, height // 2 // info.stride * info.stride)
    wider = width + info.stride
    return lower if "height" in info.dynamic else height, wider if "width" in info.dynamic else width


def _run(reference: Session, other: Session, batch: Batch) -> _Run:
    return _Run(
        batch=batch,
        reference=infer(reference, batch.images),
        other=infer(other, batch.images),
    )


def _compare_raw(
    runs: Sequence[_Run], ours: ArtifactInfo, theirs: ArtifactInfo
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the largest difference of each output both have, in its unit and as a fraction of its channel."""
    absolute: dict[str, float] = {}
    relative: dict[str, float] = {}
    if ours.head != theirs.head:
        return absolute, relative  # the same names may hold something else
    for each in runs:
        first = dict(zip(ours.outputs, each.reference, strict=True))
        second = dict(zip(theirs.outputs, each.other, strict=True))
        for name in first.keys() & second.keys():
            if first[name].shape != second[name].shape:
                absolute[name] = relative[name] = float("inf")
                continue
            with np.errstate(invalid="ignore"):  # what is infinite on both sides
                difference = np.abs(first[name].astype(np.float64) - second[name])
            axes = (0, *range(2, difference.ndim))
            scale = np.maximum(np.abs(first[name]).max(axis=axes), SMALLEST_RANGE)
            worst = np.nan_to_num(difference.max(axis=axes), nan=np.inf)
            absolute[name] = max(absolute.get(name, 0.0), float(worst.max()))
            relative[name] = max(relative.get(name, 0.0), float((worst / scale).max()))
    return dict(sorted(absolute.items())), relative


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What both models find in the images of a run, and whether it means something.

    ``near``: what both find down to half the score that is asked of what is compared; ``choices`` returns, for both,
    everything that their suppression had to choose from.
    """

    reference: list[Results]
    other: list[Results]
    near: tuple[list[Results], list[Results]]
    meaningful: bool
    choices: Callable[[float], tuple[list[Results], list[Results]]]


def _both(found: Sequence[_Found]) -> tuple[list[Results], list[Results]]:
    return [result for item in found for result in item.reference], [result for item in found for result in item.other]


def _find_objects(task: Task, runs: Sequence[_Run], ours: ArtifactInfo, theirs: ArtifactInfo) -> list[_Found]:
    """Return what both find, by rules that both leave open: of what suppresses by itself, nothing below its floor.

    Of a graph that suppresses and does not say what it keeps, as other tools' do not, that is the usual score.

    Where enough objects reach the usual score in all images together, one threshold is for all of them: what a graph
    sees in an image of nothing it knows says little of it. Else each run has the threshold that enough objects reach.
    """
    everything = DecodeOptions(conf=0.0, max_det=MAX_OBJECTS, masks=False)
    scores = [
        np.concatenate([result.boxes.conf for result in task.decode(each.reference, each.batch, ours, everything)])
        for each in runs
    ]
    nearest = task.limits(theirs, task.limits(ours, DecodeOptions(conf=0.0, multi_label=True)))
    floor = nearest.conf or (0.0 if nearest.multi_label else USUAL_SCORE)
    together = np.concatenate(scores)
    if (together > max(USUAL_SCORE, floor)).sum() >= FEWEST_OBJECTS:
        thresholds = [choose_threshold(together, floor=floor, most=MAX_OBJECTS * len(runs))] * len(runs)
    else:
        thresholds = [choose_threshold(each, floor=floor) for each in scores]
    least = max(MEANINGFUL_SCORE, floor)
    return [
        _find(task, each, (ours, theirs), threshold=threshold, meaningful=bool((found > least).any()))
        for each, found, threshold in zip(runs, scores, thresholds, strict=True)
    ]


def _find(
    task: Task, same: _Run, infos: tuple[ArtifactInfo, ArtifactInfo], *, threshold: float, meaningful: bool
) -> _Found:
    """Return what both find in the images of a run above a score."""
    ours, theirs = infos

    def both(options: DecodeOptions, others: DecodeOptions) -> tuple[list[Results], list[Results]]:
        return (
            task.decode(same.reference, same.batch, ours, options),
            task.decode(same.other, same.batch, theirs, others),
        )

    def choices(slack: float) -> tuple[list[Results], list[Results]]:
        options = DecodeOptions(conf=max(0.0, threshold - slack), iou=1.0, multi_label=True, max_det=MAX_CHOICES)
        return both(task.limits(ours, options), task.limits(theirs, options))

    def above(score: float) -> tuple[list[Results], list[Results]]:
        alike = task.limits(theirs, task.limits(ours, DecodeOptions(conf=score, max_det=MAX_OBJECTS)))
        return both(alike, alike)

    reference, other = above(threshold)
    return _Found(reference=reference, other=other, near=above(threshold / 2), meaningful=meaningful, choices=choices)


def _quality(task: Task, found: Sequence[_Found]) -> tuple[float, float]:
    """Return the mean IoU of all objects with what the other side has for them, and the mean number on a side.

    What scores a little less there is there: that a score crosses the threshold is no miss, that it falls by half is.
    """
    kept, total, matching = _both(found), 0, 0.0
    for mine, theirs in (
        (kept[0], [result for item in found for result in item.near[1]]),
        (kept[1], [result for item in found for result in item.near[0]]),
    ):
        # The quality of a pair of sides is twice the sum of the IoUs over all objects of both.
        matching += task.parity(mine, theirs).quality * (sum(map(len, mine)) + sum(map(len, theirs))) / 2
        total += sum(map(len, mine))
    return (matching / total if total else 1.0), total / 2


def _bounds(mean: float, count: float) -> tuple[float, float]:
    """Return between what the mean of values in 0..1 lies, of which so many are known (Wilson, 95 % on either side).

    Their variance is at most that of hits and misses with this mean.
    """
    share = _CERTAIN**2 / max(count, 1e-9)
    middle = (mean + share / 2) / (1 + share)
    half = math.sqrt(mean * (1 - mean) * share + share**2 / 4) / (1 + share)
    return middle - half, middle + half


def _settle(task: Task, found: Sequence[_Found], tolerance: Tolerance) -> Parity:
    """Compare what each side kept with what the other had to choose from.

    Of boxes of one object that score alike, and of classes of one box that do, the last digits decide which is kept.
    Such a tie is no damage: the other side has the same box with the same class, score and mask, and kept its
    neighbour. What is damaged has no such counterpart, neither kept nor suppressed.
    """
    kept = _both(found)
    pairs = [item.choices(tolerance.score) for item in found]
    choice = [result for pair in pairs for result in pair[0]], [result for pair in pairs for result in pair[1]]
    there = [_counterparts(mine, all_, tolerance) for mine, all_ in zip(kept[0], choice[1], strict=True)]
    here = [_counterparts(mine, all_, tolerance) for mine, all_ in zip(kept[1], choice[0], strict=True)]
    one, other = task.parity(kept[0], there), task.parity(here, kept[1])
    objects = sum(map(len, kept[0])) + sum(map(len, kept[1]))
    return dataclasses.replace(
        one,
        box=max(one.box, other.box),
        score=max(one.score, other.score),
        mask_iou=min(one.mask_iou, other.mask_iou),
        matched=(one.objects + other.objects) / objects if objects else 1.0,
        typical_box=max(one.typical_box, other.typical_box),
        typical_mask_iou=min(one.typical_mask_iou, other.typical_mask_iou),
    )


def _counterparts(kept: Results, choice: Results, tolerance: Tolerance) -> Results:
    """Return of a choice the closest in box and score to each object that was kept, of the same class; each once."""
    if not len(kept) or not len(choice):
        return choice[:0]
    sides = np.abs(kept.boxes.xyxy[:, None] - choice.boxes.xyxy[None]) * (kept.gain * 2)
    scores = np.abs(kept.boxes.conf[:, None] - choice.boxes.conf[None])
    apart = np.maximum(sides.max(axis=2) / max(tolerance.box, 1e-9), scores / max(tolerance.score, 1e-9))
    apart[kept.boxes.cls[:, None] != choice.boxes.cls[None]] = np.inf
    chosen = {int(row.argmin()) for row in apart if np.isfinite(row.min())}
    return choice[sorted(chosen)]


def choose_threshold(scores: NDArray[np.float32], *, floor: float = 0.0, most: int = MAX_OBJECTS) -> float:
    """Return the score above which objects are compared.

    The usual one where enough objects reach it, else the one that enough objects reach, as long as they are more than
    noise; and near there the middle of the widest gap, so that a difference in the last digits moves no object across.

    Args:
        scores: (N,) scores of all objects of a run.
        floor: A graph that suppresses by itself keeps only what scores more.
        most: How many objects there should be at most.
    """
    descending = np.sort(scores.astype(np.float64))[::-1]
    threshold = _wanted_threshold(descending, most)
    if threshold > floor or floor <= 0:
        return threshold
    reached = descending[descending > floor]
    lowest = np.append(reached[-1 - SLACK :], floor)
    below = int((lowest[:-1] - lowest[1:]).argmax()) if len(reached) else 0
    return float(lowest[below : below + 2].mean())


def _wanted_threshold(descending: NDArray[np.float64], most: int) -> float:
    wanted = int(np.clip((descending > USUAL_SCORE).sum(), FEWEST_OBJECTS, most))
    meaningful = int((descending > MEANINGFUL_SCORE).sum())
    wanted = min(wanted, meaningful or wanted)
    first, last = wanted, min(len(descending) - 1, wanted + SLACK)
    if last < first:
        return 0.0  # fewer objects than wanted: all of them
    gaps = descending[first - 1 : last] - descending[first : last + 1]
    if not gaps.any():
        return 0.0
    below = first + int(gaps.argmax())
    return float((descending[below - 1] + descending[below]) / 2)


def _raw_problems(runs: Sequence[_Run], relative: dict[str, float], tolerance: Tolerance) -> Iterator[str]:
    if any(not np.isfinite(output).all() for each in runs for output in each.other):
        yield "outputs hold values that are no numbers"
    for name, value in sorted(relative.items()):
        if value == float("inf"):
            yield f"{name} has another shape than the source's"
        elif value > tolerance.raw:
            yield f"{name} differs by {value:.2g} of its range, allowed {tolerance.raw:g}"


def _object_problems(parity: Parity, tolerance: Tolerance) -> Iterator[str]:
    if parity.matched < tolerance.matched:
        yield f"only {parity.matched:.1%} of the objects are found by both, wanted {tolerance.matched:.1%}"
    if parity.box > tolerance.box:
        yield f"boxes differ by {parity.box:.3g} px, allowed {tolerance.box:g}"
    if parity.score > tolerance.score:
        yield f"scores differ by {parity.score:.2g}, allowed {tolerance.score:g}"
    if tolerance.typical_box is not None and parity.typical_box > tolerance.typical_box:
        yield f"the median box differs by {parity.typical_box:.3g} px, allowed {tolerance.typical_box:g}"
    if tolerance.typical_mask_iou is not None and parity.typical_mask_iou < tolerance.typical_mask_iou:
        yield f"every 20th mask's IoU is below {parity.typical_mask_iou:.4f}, wanted {tolerance.typical_mask_iou:g}"
    if parity.mask_iou < tolerance.mask_iou:
        yield f"a mask's IoU is {parity.mask_iou:.4f}, wanted {tolerance.mask_iou:g}"
