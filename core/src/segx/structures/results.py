"""``Results``: what was found in one image, and every form it is wanted in."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from segx.errors import UsageError, optional
from segx.io.names import class_folders, crop_stem, image_suffix, split_name
from segx.structures.arrays import OnHost
from segx.structures.boxes import Boxes
from segx.words import counted, csv_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segx.structures.types import Image

NO_OBJECTS = "(no detections)"


@dataclass(eq=False, repr=False)
class Results(OnHost):
    """What was found in one image, best first; a task's own type adds what it finds beside boxes, and draws it.

    Attributes:
        orig_img: uint8 (H, W, 3), BGR, the image; None where only its shape is known.
        path: The file, URL or name it came from.
        names: Class number to class name; a copy of what was given.
        shape: (height, width) of the image, where there is no ``orig_img``.
        boxes: Never None; empty when nothing was found. An array (N, 6) is taken as well.
        speed: Milliseconds for ``preprocess``, ``inference`` and ``postprocess``.
        save_dir: The run's folder, when there is one.
        stem: What its files are called, different for each image and frame of a run; empty: made of ``path`` and
            ``frame``.
        frame: Zero-based frame number for video and streams, else None.
        gain: Pixels of the network input per pixel of the image, across and down.
    """

    orig_img: Image | None = None
    path: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    _: KW_ONLY
    shape: tuple[int, int] | None = None
    boxes: Boxes = None  # type: ignore[assignment]  # never stays None
    speed: Mapping[str, float] = field(default_factory=dict)
    save_dir: Path | None = None
    stem: str = ""
    frame: int | None = None
    gain: tuple[float, float] = (1.0, 1.0)

    parts: ClassVar[tuple[str, ...]] = ("boxes",)
    """The attributes that hold one thing for each object; they are chosen together."""

    keypoints: ClassVar[None] = None
    probs: ClassVar[None] = None
    obb: ClassVar[None] = None
    # What programs for several tasks ask for first.

    def __post_init__(self) -> None:
        self._check()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "names":  # whoever renames a class here renames it nowhere else
            value = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        elif name in self.parts:
            value = self._part(name, value)
        super().__setattr__(name, value)

    def _part(self, name: str, value: Any) -> Any:  # noqa: ARG002 - there is only one here
        """Return one of :attr:`parts` as its own type, from None or an array too."""
        if isinstance(value, Boxes):
            return value
        return Boxes.empty(self.orig_shape) if value is None else Boxes(value, self.orig_shape)

    def _check(self) -> None:
        """Refuse parts of which one was chosen without the others.

        Raises:
            ValueError: They are of different lengths.
        """
        for name in self.parts:
            if len(getattr(self, name)) not in {0, len(self)}:
                msg = f"{len(self)} boxes cannot have {len(getattr(self, name))} {name}: choose from the results as one"
                raise ValueError(msg)

    @property
    def orig_shape(self) -> tuple[int, int]:
        """(height, width) of the image."""
        shape = self.shape if self.orig_img is None else self.orig_img.shape[:2]
        boxes = getattr(self, "boxes", None)  # not there yet while they are made
        if shape is None and isinstance(boxes, Boxes):
            shape = boxes.orig_shape
        if shape is None:
            raise UsageError("results need their image, or its shape", hint="orig_img=..., or shape=(height, width)")
        return int(shape[0]), int(shape[1])

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Self:
        """Return the results of the objects an index, a slice, a list of numbers or a boolean array picks."""
        self._check()
        return self.replace(
            **{name: part[index] for name in self.parts if len(part := getattr(self, name)) or name == "boxes"}
        )

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.orig_shape
        return f"Results({self.path!r}, {width} x {height}: {self.verbose().rstrip(', ')})"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def new(self) -> Self:
        """Return results of the same image in which nothing was found."""
        return self.replace(**dict.fromkeys(self.parts))

    def update(self, **parts: Any) -> None:
        """Put other boxes (and what else the task finds) in the place of those here; None leaves what there is.

        Raises:
            UsageError: There is no such part.
        """
        for name, value in parts.items():
            if value is None:
                continue
            if name not in self.parts:
                raise UsageError(f"update: these results have no {name!r}", hint=f"parts: {', '.join(self.parts)}")
            setattr(self, name, value)

    # In words and tables

    def verbose(self) -> str:
        """Return what was found in words: ``"2 persons, 1 bus, "``."""
        if len(self) == 0:
            return f"{NO_OBJECTS}, "
        counts = Counter(self.boxes.cls.astype(int).tolist())
        return "".join(f"{counted(n, self._name(c))}, " for c, n in sorted(counts.items()))

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:  # noqa: FBT001, FBT002
        """Return one dictionary for each object: name, class, confidence, box, and track id where there is one.

        Args:
            normalize: Coordinates as fractions of the image's width and height.
            decimals: Digits after the point.
        """
        height, width = self.orig_shape if normalize else (1, 1)
        rows = []
        for x1, y1, x2, y2, *track, score, number in self.boxes.data.astype(np.float64).tolist():
            box = {"x1": x1 / width, "y1": y1 / height, "x2": x2 / width, "y2": y2 / height}
            row: dict[str, Any] = {
                "name": self._name(int(number)),
                "class": int(number),
                "confidence": round(score, decimals),
                "box": {side: round(value, decimals) for side, value in box.items()},
            }
            rows.append(row | ({"track_id": int(track[0])} if track else {}))
        return rows

    def to_json(self, normalize: bool = False, decimals: int = 5, indent: int | None = 2) -> str:  # noqa: FBT001, FBT002
        """Return :meth:`summary` as JSON."""
        return json.dumps(self.summary(normalize, decimals), indent=indent)

    tojson = to_json

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:  # noqa: FBT001, FBT002
        """Return :meth:`summary` as CSV, one row for each object."""
        return csv_text(self._columns(), self.summary(normalize, decimals))

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:  # noqa: FBT001, FBT002
        """Return :meth:`summary` as a pandas ``DataFrame``, one row for each object.

        Raises:
            MissingPluginError: pandas is not installed.
        """
        return optional("pandas", what="to_df").DataFrame(self.summary(normalize, decimals), columns=self._columns())

    def _columns(self) -> list[str]:
        """Return the keys of :meth:`summary`."""
        return ["name", "class", "confidence", "box", *(["track_id"] if self.boxes.is_track else [])]

    @property
    def areas(self) -> NDArray[np.float64]:
        """float64 (N,), the area of each object in pixels of the image: that of its box."""
        x1, y1, x2, y2 = self.boxes.data[:, :4].astype(np.float64).T
        areas: NDArray[np.float64] = (x2 - x1) * (y2 - y1)
        return areas

    def to_coco(self, image_id: int | str, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Return what COCO's results file holds: one dictionary for each object.

        Args:
            image_id: The image's id in its data set.
            category_ids: Class number to the data set's own id; default: the class number itself.
        """
        return [
            {
                "image_id": image_id,
                "category_id": int(number) if category_ids is None else category_ids[int(number)],
                "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
            for (x1, y1, x2, y2, *_, score, number) in self.boxes.data.astype(np.float64).tolist()
        ]

    def to_supervision(self) -> Any:
        """Return a ``supervision.Detections``.

        Raises:
            MissingPluginError: supervision is not installed.
        """
        sv = optional("supervision", what="to_supervision")
        numbers = self.boxes.cls.astype(int)
        detections = sv.Detections(
            xyxy=self.boxes.xyxy.numpy().copy(),
            confidence=self.boxes.conf.numpy().copy(),
            class_id=numbers,
            tracker_id=None if self.boxes.id is None else self.boxes.id.astype(int),
        )
        if hasattr(detections, "data"):  # since 0.19
            detections.data["class_name"] = np.array([self._name(number) for number in numbers.tolist()])
        return detections

    # On images and disk

    def plot(self, *_args: Any, **_style: Any) -> Any:
        """Return the image, uint8 (H, W, 3) BGR, with the results drawn in: each task's own results do.

        With ``inplace=True`` it is drawn into the image itself: the command line asks so for the largest.

        Raises:
            UsageError: These are of no task.
        """
        raise UsageError(f"{type(self).__name__} of no task cannot be drawn", hint="use the task's own type of results")

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
        return self._write_image(filename, self.plot(**style))

    def _write_image(self, filename: str | Path | None, image: Image) -> Path:
        from segx.io.files import write_image

        if filename is None:
            name = f"{self._stem}{image_suffix(self.path, otherwise='.jpg')}"
            own = self.save_dir is not None and self.save_dir.absolute() != Path(self.path).absolute().parent
            filename = (self.save_dir or Path()) / (name if own else f"results_{name}")
        return write_image(Path(filename), image)

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> Path:  # noqa: FBT001, FBT002
        """Write the objects as YOLO labels: ``class cx cy w h [score] [track id]``, fractions of width and height.

        A file that is already there is replaced.
        """
        from segx.io.files import write_text

        rows = []
        for i, number in enumerate(self.boxes.cls.astype(int).tolist()):
            values = self._label(i)
            if len(values):
                score = [f"{self.boxes.conf[i]:.6g}"] if save_conf else []
                track = [] if self.boxes.id is None else [str(int(self.boxes.id[i]))]
                rows.append(" ".join([str(number), *(f"{value:.6g}" for value in values), *score, *track]))
        return write_text(Path(txt_file), "".join(f"{row}\n" for row in rows))

    def _label(self, index: int) -> list[float]:
        """Return what a row of labels says of an object, as fractions; nothing leaves the row out."""
        return self.boxes.xywhn[index].tolist()  # type: ignore[no-any-return]

    def save_crop(self, save_dir: str | Path, file_name: str | Path | None = None, *, mode: str = "box") -> list[Path]:
        """Write one image for each object, in a folder for each class.

        Args:
            save_dir: Where the class folders go.
            file_name: Stem of the files, an image's suffix is left away; default: ``stem``. Further objects of a class
                get ``-2``, ``-3``, ...; the first one too gets ``-1`` where the stem ends like that itself.
            mode: ``"box"`` writes the box with its surroundings.
        """
        from segx.io.files import write_image

        stem = self._stem if file_name is None else split_name(str(file_name))[0]
        numbers = self.boxes.cls.astype(int).tolist()
        folders = class_folders(self.names, numbers)
        seen: Counter[int] = Counter()
        written = []
        for i, number in enumerate(numbers):
            cut = self._cut(i, mode)
            if cut.size == 0:
                continue
            seen[number] += 1
            suffix = ".png" if cut.shape[2] == 4 else image_suffix(self.path, otherwise=".png")
            path = Path(save_dir) / folders[number] / f"{crop_stem(stem, seen[number])}{suffix}"
            written.append(write_image(path, cut))
        return written

    def _cut(self, index: int, mode: str) -> Image:
        """Return the image of one object."""
        if mode != "box":
            raise UsageError(f"save_crop: mode={mode} does not go with these results", hint='mode="box"')
        height, width = self.orig_shape
        x1, y1 = np.floor(self.boxes.xyxy[index, :2]).astype(int).clip(0).tolist()
        x2, y2 = np.ceil(self.boxes.xyxy[index, 2:]).astype(int).clip(0, (width, height)).tolist()
        return self._image("save_crop")[y1:y2, x1:x2]

    def _image(self, what: str) -> Image:
        """Return the image, or say that something needs it."""
        if self.orig_img is None:
            raise UsageError(f"{what} needs the image, and these results know only its shape", hint="set orig_img")
        return self.orig_img

    @property
    def _stem(self) -> str:
        frame = "" if self.frame is None else f"_{self.frame}"
        return self.stem or f"{split_name(self.path)[0]}{frame}"

    def _name(self, number: int) -> str:
        return self.names.get(number, str(number))
