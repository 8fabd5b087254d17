"""``Results``: what was found in one image, and every form it is wanted in."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segx.console import counted
from segx.errors import MissingPluginError, UsageError
from segx.io.names import class_folders, crop_stem, image_suffix, split_name
from segx.ops.polygons import area
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from segx.structures.types import Image

NO_OBJECTS = "(no detections)"


@dataclass(frozen=True, eq=False, kw_only=True)
class Results:
    """What was found in one image. Boxes and masks go together: the i-th of each is the i-th object, best first.

    Attributes:
        orig_img: uint8 (H, W, 3), BGR, the image.
        path: The file, URL or name it came from.
        names: Class number to class name.
        boxes: Never None; empty when nothing was found.
        masks: Never None; empty when nothing was found, or when masks were not asked for.
        speed: Milliseconds for ``preprocess``, ``inference`` and ``postprocess``.
        save_dir: The run's folder, when there is one.
        stem: What its files are called, different for each image and frame of a run; empty: made of ``path`` and
            ``frame``.
        frame: Zero-based frame number for video and streams, else None.
        gain: Pixels of the network input per pixel of the image, across and down.
        task: The task that made them; its drawing is what :meth:`plot` uses.
    """

    orig_img: Image
    path: str
    names: Mapping[int, str]
    boxes: Boxes = None  # type: ignore[assignment]  # filled in below
    masks: Masks = None  # type: ignore[assignment]  # filled in below
    speed: Mapping[str, float] = field(default_factory=dict)
    save_dir: Path | None = None
    stem: str = ""
    frame: int | None = None
    gain: tuple[float, float] = (1.0, 1.0)
    task: str = "segment"

    def __post_init__(self) -> None:
        fill = {"boxes": Boxes.empty(self.orig_shape), "masks": Masks.empty(self.orig_shape)}
        for name, empty in fill.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, empty)
        object.__setattr__(self, "names", dict(self.names))  # whoever renames a class here renames it nowhere else
        if len(self.masks) not in {0, len(self.boxes)}:
            msg = f"{len(self.boxes)} boxes cannot have {len(self.masks)} masks"
            raise ValueError(msg)

    @property
    def orig_shape(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.orig_img.shape[:2]
        return height, width

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Results:
        """Return the results of the objects an index, a slice, a list of numbers or a boolean array picks."""
        masks = self.masks[index] if len(self.masks) else self.masks
        return dataclasses.replace(self, boxes=self.boxes[index], masks=masks)

    def __iter__(self) -> Iterator[Results]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.orig_shape
        return f"Results({self.path!r}, {width} x {height}: {self.verbose().rstrip(', ')})"

    def replace(self, **changes: Any) -> Results:
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def cpu(self) -> Results:
        """Return these results: they are NumPy arrays already."""
        return self

    numpy = cpu

    def to(self, *_args: Any, **_kwargs: Any) -> Results:
        """Return these results: they are NumPy arrays already."""
        return self

    # In words and tables

    def verbose(self) -> str:
        """Return what was found in words: ``"2 persons, 1 bus, "``."""
        if len(self) == 0:
            return f"{NO_OBJECTS}, "
        counts = Counter(self.boxes.cls.astype(int).tolist())
        return "".join(f"{counted(n, self._name(c))}, " for c, n in sorted(counts.items()))

    def summary(self, *, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Return one dictionary for each object: name, class, confidence, box and the outline of its largest part.

        Args:
            normalize: Coordinates as fractions of the image's width and height.
            decimals: Digits after the point.
        """
        height, width = self.orig_shape if normalize else (1, 1)
        rings = self.masks.xy
        rows = []
        for i, (x1, y1, x2, y2, score, number) in enumerate(self.boxes.data.astype(np.float64).tolist()):
            box = {"x1": x1 / width, "y1": y1 / height, "x2": x2 / width, "y2": y2 / height}
            row: dict[str, Any] = {
                "name": self._name(int(number)),
                "class": int(number),
                "confidence": round(score, decimals),
                "box": {side: round(value, decimals) for side, value in box.items()},
            }
            if len(self.masks):
                ring = np.round(rings[i].astype(np.float64) / (width, height), decimals)
                row["segments"] = {"x": ring[:, 0].tolist(), "y": ring[:, 1].tolist()}
            rows.append(row)
        return rows

    def to_json(self, *, normalize: bool = False, decimals: int = 5, indent: int | None = 2) -> str:
        """Return :meth:`summary` as JSON."""
        return json.dumps(self.summary(normalize=normalize, decimals=decimals), indent=indent)

    def to_df(self, *, normalize: bool = False, decimals: int = 5) -> Any:
        """Return :meth:`summary` as a pandas ``DataFrame``, one row for each object.

        Raises:
            MissingPluginError: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise MissingPluginError("to_df needs pandas, found none", hint="pip install pandas") from None
        columns = ["name", "class", "confidence", "box", *(["segments"] if len(self.masks) else [])]
        return pd.DataFrame(self.summary(normalize=normalize, decimals=decimals), columns=columns)

    def to_coco(self, image_id: int | str, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Return what COCO's results file holds: one dictionary for each object, its mask as compressed RLE text.

        Masks must be at the image's own resolution; those of ``retina_masks=False`` are left out.

        Args:
            image_id: The image's id in its data set.
            category_ids: Class number to the data set's own id; default: the class number itself.
        """
        whole = self.masks.frame == self.orig_shape and len(self.masks) > 0
        rows: list[dict[str, Any]] = []
        for i, (x1, y1, x2, y2, score, number) in enumerate(self.boxes.data.astype(np.float64).tolist()):
            row: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(number) if category_ids is None else category_ids[int(number)],
                "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
            if whole:
                rle = self.masks.rle[i]
                row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
            rows.append(row)
        return rows

    def to_supervision(self) -> Any:
        """Return a ``supervision.Detections``; its dense masks take N times the image in memory.

        Raises:
            MissingPluginError: supervision is not installed.
        """
        try:
            import supervision as sv
        except ImportError:
            raise MissingPluginError(
                "to_supervision needs supervision, found none", hint="pip install supervision"
            ) from None
        numbers = self.boxes.cls.astype(int)
        with_masks = len(self.masks) > 0 and self.masks.frame == self.orig_shape
        return sv.Detections(
            xyxy=self.boxes.xyxy.copy(),
            mask=self.masks.data.view(np.bool_) if with_masks else None,
            confidence=self.boxes.conf.copy(),
            class_id=numbers,
            data={"class_name": np.array([self._name(number) for number in numbers.tolist()])},
        )

    # On images and disk

    def plot(self, **style: Any) -> Image:
        """Return the image, uint8 (H, W, 3) BGR, with the results drawn in.

        Args:
            style: What the task's drawing takes; for ``segment``: ``conf line_width font_size labels boxes masks
                color_mode img``.
        """
        from segx.plugin.registry import get_registry

        image: Image = get_registry().load_task(self.task).draw(self, **style)
        return image

    def show(self, **style: Any) -> None:
        """Show :meth:`plot` in a window until a key is pressed.

        Raises:
            UsageError: There is no display, or OpenCV was installed without windows.
        """
        from segx.io.display import close_window, require_display, show_image

        require_display("show()")
        show_image(self.plot(**style), self.path, milliseconds=0)
        close_window(self.path)

    def save(self, filename: str | Path | None = None, **style: Any) -> Path:
        """Write :meth:`plot`; an interrupted write leaves nothing behind.

        Args:
            filename: Where to; default: ``stem`` in ``save_dir``, with the source's suffix or ``.jpg``; without
                ``save_dir``, or where the source lies in it, ``results_<stem>``. What OpenCV cannot write becomes
                ``.png``.
            style: As for :meth:`plot`.

        Returns:
            The file as it was written.
        """
        from segx.io.files import write_image

        if filename is None:
            name = f"{self._stem}{image_suffix(self.path, otherwise='.jpg')}"
            own = self.save_dir is not None and self.save_dir.absolute() != Path(self.path).absolute().parent
            filename = (self.save_dir or Path()) / (name if own else f"results_{name}")
        return write_image(Path(filename), self.plot(**style))

    def save_txt(self, txt_file: str | Path, *, save_conf: bool = False) -> Path:
        """Write the objects as YOLO labels: ``class x1 y1 x2 y2 ... [score]``, fractions of width and height.

        A label is one ring, so the largest part of each object is written, without its holes; an object whose mask is
        empty has no row, and without masks a row is the box ``class cx cy w h``. A file that is already there is
        replaced.
        """
        from segx.io.files import write_text

        size = np.array(self.orig_shape[::-1], np.float32)
        rows = []
        for i, number in enumerate(self.boxes.cls.astype(int).tolist()):
            values = self._largest_ring(i) / size if len(self.masks) else self.boxes.xywhn[i]
            if values.size:
                numbers = [*values.ravel().tolist(), *([float(self.boxes.conf[i])] if save_conf else [])]
                rows.append(" ".join([str(number), *(f"{value:.6g}" for value in numbers)]))
        return write_text(Path(txt_file), "".join(f"{row}\n" for row in rows))

    def save_crop(
        self,
        save_dir: str | Path,
        file_name: str | Path | None = None,
        *,
        mode: Literal["mask", "box"] = "mask",
    ) -> list[Path]:
        """Write one image for each object, in a folder for each class.

        Args:
            save_dir: Where the class folders go.
            file_name: Stem of the files, an image's suffix is left away; default: ``stem``. Further objects of a class
                get ``-2``, ``-3``, ...; the first one too gets ``-1`` where the stem ends like that itself.
            mode: ``"mask"`` cuts the object out, transparent around it (PNG); ``"box"`` writes the box with its
                surroundings.
        """
        from segx.io.files import write_image

        stem = self._stem if file_name is None else split_name(str(file_name))[0]
        suffix = ".png" if mode == "mask" else image_suffix(self.path, otherwise=".png")
        numbers = self.boxes.cls.astype(int).tolist()
        folders = class_folders(self.names, numbers)
        seen: Counter[int] = Counter()
        written = []
        for i, number in enumerate(numbers):
            cut = self.cut_out(i) if mode == "mask" else self._cut_box(i)
            if cut.size == 0:
                continue
            seen[number] += 1
            path = Path(save_dir) / folders[number] / f"{crop_stem(stem, seen[number])}{suffix}"
            written.append(write_image(path, cut))
        return written

    def cut_out(self, index: int) -> Image:
        """Return one object cut out along its mask: uint8 (h, w, 4) BGRA, transparent around it.

        Raises:
            UsageError: There are no masks at the image's resolution.
        """
        if self.masks.frame != self.orig_shape or len(self.masks) == 0:
            raise UsageError(
                "cutting out needs masks at the image's resolution", hint="use retina_masks=true, or the box"
            )
        x0, y0, x1, y1 = self.masks.bounds[index].tolist()
        left, top = self.masks.rects[index, :2].tolist()
        alpha = self.masks.bitmap(index)[y0 - top : y1 - top, x0 - left : x1 - left]
        return np.dstack([self.orig_img[y0:y1, x0:x1], alpha.astype(np.uint8) * 255])

    def _cut_box(self, index: int) -> Image:
        height, width = self.orig_shape
        x1, y1 = np.floor(self.boxes.xyxy[index, :2]).astype(int).clip(0).tolist()
        x2, y2 = np.ceil(self.boxes.xyxy[index, 2:]).astype(int).clip(0, (width, height)).tolist()
        return self.orig_img[y1:y2, x1:x2]

    def _largest_ring(self, index: int) -> NDArray[np.float32]:
        return self._largest_rings[index]

    @cached_property
    def _largest_rings(self) -> list[NDArray[np.float32]]:
        """The exterior of each object's largest part, in continuous pixels of the image."""
        return [
            max((part.exterior for part in parts), key=area, default=np.zeros((0, 2), np.float32))
            for parts in self.masks.polygons
        ]

    @property
    def _stem(self) -> str:
        frame = "" if self.frame is None else f"_{self.frame}"
        return self.stem or f"{split_name(self.path)[0]}{frame}"

    def _name(self, number: int) -> str:
        return self.names.get(number, str(number))
