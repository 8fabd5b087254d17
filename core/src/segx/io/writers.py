"""What a run writes: images, videos, labels, crops, COCO JSON; each file whole, none over another."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import cv2

from segx.errors import DataError, UsageError
from segx.io.display import close_window, require_display, show_image
from segx.io.files import GrowingFile, plain_cell, replacing, utf8_name, write_image
from segx.io.images import quiet
from segx.io.names import ImageIds, Names, image_suffix, split_name
from segx.io.video import silence_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segx.options.verbs import PredictOptions
    from segx.structures.batch import Clip, SourceImage
    from segx.structures.results import Results
    from segx.structures.types import Image

logger = logging.getLogger(__name__)

_CODECS = ("avc1", "mp4v")
"""H.264, which browsers play too, where this OpenCV can write it; else MPEG-4 part 2, which players open."""


_TITLE = "segx"
_LOOK = 500
"""Milliseconds that an image is shown; a frame only as long as the next takes."""


@dataclass(frozen=True)
class Frame:
    """One image with what was found in it, ready to be written.

    Attributes:
        source: The image.
        results: What was found; its ``stem`` is the name of its files.
        video: The name of the video that it is a frame of, else that of the image.
        style: How it is drawn.
    """

    source: SourceImage
    results: Results
    video: str
    style: dict[str, Any]

    @cached_property
    def drawn(self) -> Image:
        """The image with the results drawn in, made once."""
        return self.results.plot(**self.style)


class ResultWriter(Protocol):
    """Writes the results of a run in one form.

    Attributes:
        ordered: Whether frames must be written one by one and in order.
    """

    ordered: bool

    def write(self, frame: Frame) -> None:
        """Write one image's results."""
        ...

    def close(self, *, complete: bool) -> None:
        """Finish the files; ``complete`` is False when the run has failed."""
        ...


class ResultWriters:
    """All result writers of a run.

    Args:
        options: What is to be written, and how it looks.
        folder: The run's folder; None when nothing is to be written.
    """

    def __init__(self, options: PredictOptions, folder: Path | None) -> None:
        self.folder = folder
        self._style = drawing_style(options)
        self._names = _SourceNames()
        self._may_hold_sources = options.save and options.exist_ok
        self._writers: list[ResultWriter] = [] if folder is None else list(_chosen(options, folder))

    def claim(self, source: SourceImage) -> str:
        """Return the name that an image or its video has in this run; to be called once for each image, in order.

        Raises:
            UsageError: The image lies where its drawing would go.
        """
        if self._may_hold_sources and self.folder is not None and _lies_in(source.path, self.folder):
            raise UsageError(
                f"{source.path} lies in the folder of the run: what is drawn would be written over it",
                hint="name another folder with project= and name=",
            )
        return self._names.new(source)

    def frame(self, source: SourceImage, results: Results, name: str) -> Frame:
        """Return an image with its results, ready to be written."""
        stem = name if source.frame is None else f"{name}_{source.frame}"
        results = results.replace(save_dir=self.folder, stem=stem)
        return Frame(source=source, results=results, video=name, style=self._style)

    def write(self, frame: Frame) -> None:
        """Write what may be written in any order, from any thread."""
        for writer in self._writers:
            if not writer.ordered:
                writer.write(frame)

    def append(self, frames: Sequence[Frame]) -> None:
        """Write what has to be written in order."""
        for writer in self._writers:
            if writer.ordered:
                for frame in frames:
                    writer.write(frame)

    def close(self, *, complete: bool) -> None:
        """End all files that were begun, each whatever becomes of the others."""
        with contextlib.ExitStack() as closing:
            for writer in self._writers:
                closing.callback(writer.close, complete=complete)


def saves(options: PredictOptions) -> bool:
    """Return True if a run with these options writes anything."""
    return bool(options.save or options.save_txt or options.save_crop or options.save_json or options.save_csv)


def check(options: PredictOptions) -> None:
    """Refuse what cannot be written or shown, before any work.

    Raises:
        UsageError: Cut-outs are asked for without masks at the image's resolution, or a window without a display.
    """
    if options.save_crop in {True, "mask"} and not options.retina_masks:
        raise UsageError(
            "save_crop=mask cuts along masks at the image's resolution, which retina_masks=false does not make",
            hint="use save_crop=box, or leave retina_masks out",
        )
    if options.save_conf and not options.save_txt:
        raise UsageError("save_conf adds scores to text files, and none are asked for", hint="add save_txt=true")
    if options.show:
        require_display("show=true")


def drawing_style(options: PredictOptions) -> dict[str, Any]:
    """Return how results are drawn, as ``Results.plot`` takes it."""
    return {
        "line_width": options.line_width,
        "labels": options.show_labels,
        "conf": options.show_conf,
        "boxes": options.show_boxes,
        **({} if options.font is None else {"font": options.font}),
    }


class Window:
    """Shows results on the screen; used from the thread that asks for results, as windows demand."""

    def __init__(self, style: dict[str, Any]) -> None:
        self._style = style
        self._open = False

    def show(self, results: Results) -> bool:
        """Show one image; False when the user wants to see no more (q, Esc).

        Raises:
            UsageError: OpenCV was installed without windows.
        """
        self._open = True
        key = show_image(results.plot(**self._style), _TITLE, milliseconds=1 if results.frame is not None else _LOOK)
        return key & 0xFF not in {ord("q"), 27}

    def close(self) -> None:
        """Close the window."""
        if self._open:
            close_window(_TITLE)


class _SourceNames:
    """Gives every image and every video of a run a name of its own."""

    def __init__(self) -> None:
        self._names = Names()
        self._clips: dict[str, tuple[str, int]] = {}

    def new(self, source: SourceImage) -> str:
        wanted = split_name(source.path)[0]
        if source.frame is None:
            return self._names.new(wanted)
        name, last = self._clips.get(source.path, ("", -1))
        if not name or source.frame <= last:  # a video given twice begins again
            name = self._names.new(wanted, frames=True)
        self._clips[source.path] = (name, source.frame)
        return name


def _lies_in(path: str, folder: Path) -> bool:
    """Return True if a source is a file in a folder."""
    try:
        return Path(path).parent.samefile(folder) and Path(path).is_file()
    except (OSError, ValueError):  # an address, a name too long
        return False


def _chosen(options: PredictOptions, folder: Path) -> list[ResultWriter]:
    writers: list[ResultWriter] = []
    if options.save:
        writers += [_ImageWriter(folder), _VideoWriter(folder)]
    if options.save_txt:
        writers.append(_LabelWriter(folder / "labels", save_conf=options.save_conf))
    if options.save_crop:
        writers.append(_CropWriter(folder / "crops", "box" if options.save_crop == "box" else "mask"))
    if options.save_json:
        kind = _CocoDatasetWriter if options.save_json == "dataset" else _CocoJsonWriter
        writers.append(kind(folder / "predictions.json"))
    if options.save_csv:
        writers.append(_CsvWriter(folder / "predictions.csv"))
    return writers


class _ImageWriter:
    """Images with the results drawn in, in the format they came in."""

    ordered = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, frame: Frame) -> None:
        if frame.source.frame is None:
            suffix = image_suffix(frame.source.path, otherwise=".jpg")
            write_image(self._folder / f"{frame.results.stem}{suffix}", frame.drawn)

    def close(self, *, complete: bool) -> None:
        """Nothing to do: each file is complete when written."""


class _LabelWriter:
    """One text file of polygons for each image."""

    ordered = False

    def __init__(self, folder: Path, *, save_conf: bool) -> None:
        self._folder, self._save_conf = folder, save_conf

    def write(self, frame: Frame) -> None:
        frame.results.save_txt(self._folder / f"{frame.results.stem}.txt", save_conf=self._save_conf)

    def close(self, *, complete: bool) -> None:
        """Nothing to do: each file is complete when written."""


class _CropWriter:
    """One image for each object."""

    ordered = False

    def __init__(self, folder: Path, mode: Literal["mask", "box"]) -> None:
        self._folder = folder
        self._mode: Literal["mask", "box"] = mode

    def write(self, frame: Frame) -> None:
        frame.results.save_crop(self._folder, mode=self._mode)

    def close(self, *, complete: bool) -> None:
        """Nothing to do: each file is complete when written."""


class _CocoJsonWriter:
    """All objects of the run as COCO results; on disk as they come, in place when the run has ended."""

    ordered = True

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._ids = ImageIds()
        self._separator = "[\n"

    def write(self, frame: Frame) -> None:
        image_id = self._ids.new(frame.results.stem)
        for row in frame.results.to_coco(image_id):
            self._file.write(self._separator + json.dumps({**row, "file_name": frame.source.path}))
            self._separator = ",\n"

    def close(self, *, complete: bool) -> None:
        try:
            if complete:
                self._file.write("[]\n" if self._separator.startswith("[") else "\n]\n")
                self._file.finish()
        finally:
            self._file.discard()


class _CocoDatasetWriter:
    """All images of the run and what was found in them as a COCO data set, which annotation tools and segx open."""

    ordered = True

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._file.write('{"annotations":[')
        self._ids = ImageIds()
        self._images: list[dict[str, Any]] = []
        self._names: dict[int, str] = {}
        self._count = 0

    def write(self, frame: Frame) -> None:
        results = frame.results
        height, width = results.orig_shape
        image = {"id": self._ids.new(results.stem), "file_name": _lasting(frame), "height": height, "width": width}
        self._images.append(image)
        self._names.update(results.names)
        for place, row in enumerate(results.to_coco(image["id"])):
            self._count += 1
            area = results.masks.area[place] if "segmentation" in row else row["bbox"][2] * row["bbox"][3]
            whole = {"id": self._count, "segmentation": [], **row, "area": round(float(area), 3), "iscrowd": 0}
            self._file.write((",\n" if self._count > 1 else "\n") + json.dumps(whole))

    def close(self, *, complete: bool) -> None:
        try:
            if complete:
                categories = [{"id": number, "name": name} for number, name in sorted(self._names.items())]
                rest = json.dumps({"images": self._images, "categories": categories}, ensure_ascii=False)
                self._file.write(f"\n],\n{rest[1:]}\n")
                self._file.finish()
        finally:
            self._file.discard()


def _lasting(frame: Frame) -> str:
    """Return the name by which an image is found from any folder; a frame of a video has that of its drawing."""
    path = Path(frame.source.path)
    return str(path.absolute()) if frame.source.frame is None and path.exists() else f"{frame.results.stem}.jpg"


class _CsvWriter:
    """All objects of the run as a table, a row for each."""

    ordered = True

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._put(["image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2", "area"])

    def write(self, frame: Frame) -> None:
        results = frame.results
        areas = results.masks.area.tolist() if len(results.masks) else [""] * len(results)
        for (x1, y1, x2, y2, score, number), area in zip(results.boxes.data.tolist(), areas, strict=True):
            name = results.names.get(int(number), str(int(number)))
            place = ["" if frame.source.frame is None else frame.source.frame, int(number)]
            box = [f"{value:.2f}" for value in (x1, y1, x2, y2)]
            self._put([plain_cell(frame.source.path), *place, plain_cell(name), f"{score:.5f}", *box, area])

    def _put(self, cells: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._file.write(text.getvalue())

    def close(self, *, complete: bool) -> None:
        try:
            if complete:
                self._file.finish()
        finally:
            self._file.discard()


class _VideoWriter:
    """Videos with the results drawn in, at the rate at which their frames were taken."""

    ordered = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, _VideoFile] = {}

    def write(self, frame: Frame) -> None:
        clip = frame.source.clip
        if clip is None:
            return
        if frame.video not in self._open:
            if not clip.live:  # files come one after the other: those before this one have ended
                self.close(complete=True)
            self._open[frame.video] = _VideoFile(self._folder / f"{frame.video}.mp4", clip, frame.drawn)
        self._open[frame.video].write(frame.drawn, frame.source.seconds)

    def close(self, *, complete: bool) -> None:
        """End the videos; one that was broken off is kept, for what is in it can be played."""
        with contextlib.ExitStack() as closing:
            while self._open:
                closing.callback(self._end, self._open.popitem()[1], complete=complete)

    def _end(self, video: _VideoFile, *, complete: bool) -> None:
        try:
            video.close()
        except DataError as error:
            if complete:
                raise
            logger.warning("%s", error.message)  # what broke the run off is the error to tell


class _VideoFile:
    """One video on its way; it appears when it is whole."""

    def __init__(self, path: Path, clip: Clip, first: Image) -> None:
        self._path = path
        self._size = (first.shape[1], first.shape[0])
        self._rate = clip.fps
        self._written = 0
        self._last: Image | None = None
        with contextlib.ExitStack() as opening:
            self._part = opening.enter_context(replacing(path))
            self._writer = _open_writer(self._part, clip.fps, self._size)
            self._stack = opening.pop_all()

    def write(self, frame: Image, seconds: float | None) -> None:
        """Write a frame at its time: where the rate varies, the one before is repeated until then.

        A frame that comes sooner than this rate can show it is left out.
        """
        if (frame.shape[1], frame.shape[0]) != self._size:  # a stream may change its size on the way
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        due = self._written if seconds is None else round(seconds * self._rate)
        if due < self._written - 1:
            return
        while self._last is not None and self._written < due:
            self._put(self._last)
        self._put(frame)
        self._last = frame

    def _put(self, frame: Image) -> None:
        with quiet():  # what goes wrong is told once, by close
            self._writer.write(frame)
        self._written += 1

    def close(self) -> None:
        with self._stack:
            with quiet():
                self._writer.release()
            there = _frames_of(self._part)
            if there != self._written:  # OpenCV says nothing of a disk that is full
                raise DataError(
                    f"{self._path}: cannot be written: {there} of {self._written} frames have come onto the disk",
                    hint="is it full?",
                )


def _frames_of(path: Path) -> int:
    """Return how many frames a finished video says it has; 0 where it cannot be played."""
    silence_ffmpeg()
    with quiet(), utf8_name(path) as name:
        video = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        try:
            return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if video.isOpened() else 0
        finally:
            video.release()


def _open_writer(path: Path, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    """Return a writer with the first codec that this OpenCV can write."""
    silence_ffmpeg()
    for codec in _CODECS:
        with quiet(), utf8_name(path) as name:
            writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size)
        if writer.isOpened():
            return writer
        writer.release()
        path.unlink(missing_ok=True)
    raise DataError(f"{path.name}: no video of {size[0]} x {size[1]} can be written to {path.parent}")
