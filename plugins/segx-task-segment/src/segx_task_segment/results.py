"""The results of the task: boxes and masks, drawn, cut out and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from segx.errors import UsageError
from segx.io.images import image_of
from segx.ops.polygons import area
from segx.structures.annotations import masks_of
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx.structures.results import Results
from segx_task_segment.draw import draw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.structures.annotations import Sample
    from segx.structures.types import Image


@dataclass(eq=False, repr=False)
class SegmentResults(Results):
    """What was found in one image. Boxes and masks go together: the i-th of each is the i-th object, best first.

    Attributes:
        masks: Never None; empty when nothing was found, or when masks were not asked for. An array (N, H, W) is taken
            as well.
    """

    masks: Masks = None  # type: ignore[assignment]  # never stays None

    parts: ClassVar[tuple[str, ...]] = ("boxes", "masks")

    def _part(self, name: str, value: Any) -> Any:
        if name != "masks":
            return super()._part(name, value)
        if isinstance(value, Masks):
            return value
        return Masks.empty(self.orig_shape) if value is None else Masks.from_dense(value, self.orig_shape)

    @property
    def _masks_fit(self) -> bool:
        """Whether there are masks at the image's resolution."""
        return len(self.masks) > 0 and self.masks.frame == self.orig_shape

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:  # noqa: FBT001, FBT002
        """Return one dictionary for each object: name, class, confidence, box and the outline of its largest part.

        Args:
            normalize: Coordinates as fractions of the image's width and height.
            decimals: Digits after the point.
        """
        self._check()
        rows = super().summary(normalize, decimals)
        height, width = self.orig_shape if normalize else (1, 1)
        for row, ring in zip(rows, self.masks.xy, strict=False):  # there may be boxes alone
            points = np.round(ring.astype(np.float64) / (width, height), decimals)
            row["segments"] = {"x": points[:, 0].tolist(), "y": points[:, 1].tolist()}
        return rows

    def _columns(self) -> list[str]:
        return [*super()._columns(), *(["segments"] if len(self.masks) else [])]

    @property
    def areas(self) -> NDArray[np.float64]:
        """float64 (N,), the area of each object in pixels of the image: that of its mask, else of its box."""
        return self.masks.area.astype(np.float64) if self._masks_fit and len(self.masks) else super().areas

    def to_coco(self, image_id: int | str, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Return what COCO's results file holds: one dictionary for each object, its mask as compressed RLE text.

        Masks must be at the image's own resolution; those of ``retina_masks=False`` are left out.

        Args:
            image_id: The image's id in its data set.
            category_ids: Class number to the data set's own id; default: the class number itself.
        """
        self._check()
        rows = super().to_coco(image_id, category_ids)
        for row, rle in zip(rows, self.masks.rle if self._masks_fit else [], strict=False):
            row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        return rows

    def to_supervision(self) -> Any:
        """Return a ``supervision.Detections``; its dense masks take N times the image in memory.

        Raises:
            MissingPluginError: supervision is not installed.
        """
        self._check()
        detections = super().to_supervision()
        if self._masks_fit:
            detections.mask = self.masks.data.numpy().view(np.bool_)
        return detections

    def plot(  # noqa: D417, PLR0917 - in the incumbent's order; what is not told of changes nothing here
        self,
        conf: bool = True,  # noqa: FBT001, FBT002
        line_width: float | None = None,
        font_size: float | None = None,
        font: str | Path | None = None,
        pil: bool = False,  # noqa: FBT001, FBT002
        img: Image | None = None,
        im_gpu: Any = None,  # noqa: ARG002
        kpt_radius: int = 5,  # noqa: ARG002
        kpt_line: bool = True,  # noqa: ARG002, FBT001, FBT002
        labels: bool = True,  # noqa: FBT001, FBT002
        boxes: bool = True,  # noqa: FBT001, FBT002
        masks: bool = True,  # noqa: FBT001, FBT002
        probs: bool = True,  # noqa: ARG002, FBT001, FBT002
        show: bool = False,  # noqa: FBT001, FBT002
        save: bool = False,  # noqa: FBT001, FBT002
        filename: str | Path | None = None,
        color_mode: Literal["class", "instance"] = "class",
        txt_color: tuple[int, int, int] | None = None,
        *,
        opacity: float = 0.36,
        inplace: bool = False,
    ) -> Any:
        """Return the image, uint8 (H, W, 3) BGR, with the results drawn in.

        Args:
            conf: Scores in the labels.
            line_width: Width of outlines in pixels; default: from the size of the image.
            font_size: Height of labels in pixels; default: from the size of the image.
            font: A TrueType or OpenType file, for names the built-in Latin font lacks.
            pil: Return a ``PIL.Image``.
            img: Draw on this image, of the same size, instead of the one the results came from; grey, 16 bits and
                floats are read as a source is.
            labels: Class names.
            boxes: Boxes.
            masks: Masks: a translucent fill and an outline.
            show: Show it in a window too, until a key is pressed.
            save: Write it too, as :meth:`save` does.
            filename: Where to.
            color_mode: One colour for each class, the same in every image, or one for each object.
            txt_color: Colour of the labels' text, BGR; default: what is legible on the label.
            opacity: Of the masks' fill, 0..1.
            inplace: Draw into the image itself, which saves a copy of it.

        Raises:
            UsageError: ``img`` is of another size, or no image; or there is no display.
            DataError: Its values are out of range, or the file cannot be written.
        """
        self._check()
        drawn = draw(
            self,
            conf=conf,
            labels=labels,
            boxes=boxes,
            masks=masks,
            line_width=line_width,
            font_size=font_size,
            font=font,
            color_mode=color_mode,
            opacity=opacity,
            img=self._image("plot") if img is None else img,
            text=txt_color,
            inplace=inplace,
        )
        if save:
            self._write_image(filename, drawn)
        if show:
            self.show(img=drawn, labels=False, boxes=False, masks=False)
        if pil:
            from PIL import Image as Pillow

            return Pillow.fromarray(np.ascontiguousarray(drawn[..., ::-1]))
        return drawn

    def _label(self, index: int) -> list[float]:
        """Return the ring of the object's largest part, without its holes: a label is one ring."""
        if not len(self.masks):
            return super()._label(index)
        self._check()
        rings = [part.exterior for part in self.masks.polygons[index]]
        ring = max(rings, key=area, default=np.zeros((0, 2), np.float32))
        fractions: Any = ring / np.array(self.orig_shape[::-1], np.float32)
        return fractions.ravel().tolist()  # type: ignore[no-any-return]

    def save_crop(self, save_dir: str | Path, file_name: str | Path | None = None, *, mode: str = "mask") -> list[Path]:
        """Write one image for each object, in a folder for each class.

        Args:
            save_dir: Where the class folders go.
            file_name: Stem of the files; see :meth:`segx.structures.results.Results.save_crop`.
            mode: ``"mask"`` cuts the object out, transparent around it (PNG); ``"box"`` writes the box with its
                surroundings.
        """
        return super().save_crop(save_dir, file_name, mode=mode)

    def _cut(self, index: int, mode: str) -> Image:
        return self.cut_out(index) if mode == "mask" else super()._cut(index, mode)

    def cut_out(self, index: int) -> Image:
        """Return one object cut out along its mask: uint8 (h, w, 4) BGRA, transparent around it.

        Raises:
            UsageError: There are no masks at the image's resolution.
        """
        self._check()
        if not self._masks_fit:
            raise UsageError(
                "cutting out needs masks at the image's resolution", hint="use retina_masks=true, or the box"
            )
        x0, y0, x1, y1 = self.masks.bounds[index].tolist()
        left, top = self.masks.rects[index, :2].tolist()
        alpha = self.masks.bitmap(index)[y0 - top : y1 - top, x0 - left : x1 - left]
        return np.dstack([self._image("cut_out")[y0:y1, x0:x1], alpha.astype(np.uint8) * 255])


def annotation_results(sample: Sample, names: Mapping[int, str]) -> SegmentResults:
    """Return the annotations of an image as results, to be drawn.

    Raises:
        DataError: The image cannot be read.
    """
    data = [
        (x, y, x + w, y + h, 1.0, annotation.category)
        for annotation in sample.annotations
        for x, y, w, h in [annotation.box]
    ]
    return SegmentResults(
        image_of(sample),
        str(sample.path),
        names,
        boxes=Boxes(np.array(data, np.float32).reshape(-1, 6), sample.shape),
        masks=masks_of(sample.annotations, sample.shape),
    )
