"""The task ``segment``: images into network input, raw outputs into results, results into images.

What only training, validation and export need is imported where they begin: who predicts does not wait for it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segx.structures.batch import Batch, boxes_to_image, letterbox, rect_shape
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_task_segment import decode
from segx_task_segment.mask_assembly import image_masks, input_masks
from segx_task_segment.plugin import HEADS
from segx_task_segment.results import SegmentResults, annotation_results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo, Parity
    from segx.options.verbs import DecodeOptions, TrainOptions
    from segx.plugin.interfaces import Dataset, Evaluator, LoaderMaker
    from segx.plugin.jobs import EvalSpec
    from segx.structures.annotations import Sample
    from segx.structures.batch import Letterbox, SourceImage
    from segx.structures.results import Results
    from segx.structures.types import Array, Image
    from segx_task_segment.decode import Detections
    from segx_task_segment.training.drawings import SegmentDrawings


class SegmentTask:
    """Instance segmentation."""

    name = "segment"
    heads: tuple[str, ...] = tuple(head.id for head in HEADS)
    results: type[Results] = SegmentResults

    def input_shape(
        self, image: tuple[int, int], imgsz: tuple[int, int], *, stride: int, rect: bool
    ) -> tuple[int, int]:
        """Return the (height, width) of the network input for an image of this (height, width).

        Args:
            image: (height, width) of the image.
            imgsz: (height, width) asked for, multiples of the stride.
            stride: What the input's sides are multiples of.
            rect: Pad only to the stride; otherwise the input is ``imgsz``.
        """
        return rect_shape(image, imgsz, stride) if rect else imgsz

    def preprocess(
        self,
        sources: Sequence[SourceImage],
        shape: tuple[int, int],
        *,
        scaleup: bool = True,
        channels_last: bool = False,
    ) -> Batch:
        """Return images, resized and padded to one (height, width), as network input.

        Args:
            sources: The images.
            shape: (height, width) of the input.
            scaleup: Enlarge images that are smaller than the input.
            channels_last: Whether the channels of a pixel lie side by side in memory.
        """
        pixels = [source.image for source in sources]
        images, geometry = letterbox(pixels, shape, scaleup=scaleup, channels_last=channels_last)
        return Batch(sources=tuple(sources), geometry=tuple(geometry), images=images)

    def decode(
        self, outputs: Sequence[Array], batch: Batch, info: ArtifactInfo, options: DecodeOptions
    ) -> list[Results]:
        """Return what was found in each image of a batch.

        Raises:
            ModelError: The head is not known, or the outputs are not its.
        """
        shape = batch.geometry[0].input
        found = decode.read(outputs, shape, info, options)
        return [
            _results(
                detections,
                prototypes,
                source,
                geometry,
                names=info.names or {number: f"class{number}" for number in range(nc)},
                options=options,
            )
            for ((detections, prototypes), nc), source, geometry in zip(
                found, batch.sources, batch.geometry, strict=True
            )
        ]

    def limits(self, info: ArtifactInfo, options: DecodeOptions) -> DecodeOptions:
        """Return the options nearest to these that a finished graph still lets one choose."""
        return decode.limits(info, options)

    def check(self, info: ArtifactInfo, options: DecodeOptions) -> None:
        """Refuse what a finished graph no longer lets one choose.

        Raises:
            UsageError: With the option, and what the file does.
        """
        decode.check(info, options)

    def draw_annotations(self, sample: Sample, names: Mapping[int, str]) -> Image:
        """Return an image of a data set, uint8 (H, W, 3) BGR, with its annotations drawn in.

        Raises:
            DataError: The image cannot be read.
        """
        return np.asarray(annotation_results(sample, names).plot(conf=False))

    def parity(self, reference: Sequence[Any], other: Sequence[Any]) -> Parity:
        """Compare what two models found in the same images; ``raw`` is filled by core."""
        from segx_task_segment.parity import compare

        return compare(reference, other)

    def train_loader(
        self, dataset: Dataset, options: TrainOptions, *, stride: int, indices: Sequence[int] | None = None
    ) -> LoaderMaker:
        """Return what makes the loader of augmented batches once the number of processes is known.

        Args:
            dataset: The training split.
            options: Input size, augmentation, masks, seed and workers.
            stride: What input sides are multiples of.
            indices: The part of the split to use; default all of it.

        Raises:
            DataError: No object has a mask to learn from.
        """
        from segx_task_segment.training.loader import make_loader, require_masks

        require_masks(dataset, options, indices)
        return partial(make_loader, dataset, options, stride=stride, indices=indices)

    def train_drawings(self, names: Mapping[int, str], options: TrainOptions) -> SegmentDrawings:
        """Return what draws the batches, the labels and the curves of a training run.

        Args:
            names: Class number to class name, as they are trained.
            options: Which classes are trained on, and whether as one.
        """
        from segx_task_segment.training.drawings import SegmentDrawings

        return SegmentDrawings(
            names=names, classes=cast("tuple[int, ...] | None", options.classes), single_class=options.single_cls
        )

    def evaluator(self, spec: EvalSpec) -> Evaluator:
        """Return what measures a model on a data set by the COCO protocol."""
        from segx_task_segment.validation import SegmentValidation

        return SegmentValidation(spec)


def _results(
    found: Detections,
    prototypes: NDArray[np.float32],
    source: SourceImage,
    geometry: Letterbox,
    *,
    names: Mapping[int, str],
    options: DecodeOptions,
) -> SegmentResults:
    boxes = boxes_to_image(found.boxes, geometry)
    if not options.masks:
        masks = Masks.empty(geometry.original)
    elif options.retina_masks:
        masks = image_masks(prototypes, found.coefficients, boxes, geometry)
    else:
        masks = input_masks(prototypes, found.coefficients, found.boxes, geometry)
    numbers = np.stack([found.scores, found.classes.astype(np.float32)], axis=1)
    return SegmentResults(
        orig_img=source.image,
        shape=geometry.original,
        path=source.path,
        frame=source.frame,
        names=names,
        boxes=Boxes(np.concatenate([boxes, numbers], axis=1), geometry.original),
        masks=masks,
        gain=(geometry.width / geometry.original[1], geometry.height / geometry.original[0]),
    )
