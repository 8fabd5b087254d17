"""What a run writes: images, videos, labels, crops, COCO JSON; each file whole, none over another."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2

from segx.errors import DataError, UsageError
from segx.io.display import close_window, require_display, show_image
from segx.io.files import GrowingFile, plain_cell, replacing, utf8_name, write_image
from segx.io.images import LARGE
from segx.io.names import ImageIds, Names, image_suffix, split_name
from segx.io.video import silence_ffmpeg
from segx.runs import make_run_folder
from segx.runtime import process_taken
from segx.runtime.opencv import quiet

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


class ResultWriter:
    """Writes the results of a run in one form.

    Attributes:
        ordered: Whether images must be written one by one and in order.
    """

    ordered = False

    def write(self, source: SourceImage, results: Results) -> None:
        """Write one image's results; their ``stem`` is the name of its files."""
        raise NotImplementedError

    def close(self, *, complete: bool) -> None:
        """Finish what is not complete as it is written; ``complete`` is False when the run has failed."""


class RunOutput:
    """The folder that runs of one model with the same options share, and the names that were given in it.

    So a loop that predicts image by image writes into one folder, and never over what an earlier turn has written.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.names = Names()
        self._lock = threading.Lock()  # one model may be used from several threads

    def open(self, options: PredictOptions, *, task: str) -> Path:
        """Return the folder; it is made when there is none yet, or none any more.

        Raises:
            UsageError: Its name leads out of the project.
            DataError: It cannot be made.
        """
        with self._lock:
            if self.folder is None or not self.folder.is_dir():
                self.names = Names()
                self.folder = make_run_folder(
                    "predict", task=task, project=options.project, name=options.name, exist_ok=options.exist_ok
                )
            return self.folder


class ResultWriters:
    """All result writers of a run.

    Args:
        options: What is to be written, and how it looks.
        output: Where; None when nothing is to be written.
    """

    def __init__(self, options: PredictOptions, output: RunOutput | None) -> None:
        self.folder = None if output is None else output.folder
        self._saves = options.save
        self._names = _SourceNames(Names() if output is None else output.names)
        self._writers: list[ResultWriter] = [] if output is None else list(_chosen(options, output))

    def claim(self, source: SourceImage) -> str:
        """Return what the files of an image are called in this run; to be called once for each image, in order.

        Raises:
            UsageError: The image lies where its drawing would go.
        """
        if self._saves and self.folder is not None and _lies_in(source.path, self.folder):
            raise UsageError(
                f"{source.path} lies in the folder of the run: what is drawn would be written over it",
                hint="name another folder with project= and name=",
            )
        name = self._names.new(source)
        return name if source.frame is None else f"{name}_{source.frame}"

    def write(self, source: SourceImage, results: Results) -> None:
        """Write what may be written in any order, from any thread."""
        for writer in self._writers:
            if not writer.ordered:
                writer.write(source, results)

    def append(self, source: SourceImage, results: Results) -> None:
        """Write what has to be written in order."""
        for writer in self._writers:
            if writer.ordered:
                writer.write(source, results)

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

    def __init__(self, names: Names) -> None:
        self._names = names
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


def _chosen(options: PredictOptions, output: RunOutput) -> list[ResultWriter]:
    writers: list[ResultWriter] = []
    folder = output.folder or Path()
    if options.save_txt:
        writers.append(_LabelWriter(folder / "labels", save_conf=options.save_conf))
    if options.save_crop:
        writers.append(_CropWriter(folder / "crops", "box" if options.save_crop == "box" else "mask"))
    if options.save_json:
        kind = _CocoDatasetWriter if options.save_json == "dataset" else _CocoJsonWriter
        writers.append(kind(folder / "predictions.json"))
    if options.save_csv:
        writers.append(_CsvWriter(folder / "predictions.csv"))
    if options.save:  # last: what is drawn into the image itself, nobody can read there any more
        style = drawing_style(options)
        writers += [_ImageWriter(folder, style, spares=not options.show), _VideoWriter(folder, style)]
    return writers


class _ImageWriter(ResultWriter):
    """Images with the results drawn in, in the format they came in.

    A large one is not copied to be drawn into, where the process is segx's own and nobody else gets the results: then
    these have no image any more. ``spares``: nobody else asks for it.
    """

    def __init__(self, folder: Path, style: dict[str, Any], *, spares: bool) -> None:
        self._folder, self._style, self._spares = folder, style, spares

    def write(self, source: SourceImage, results: Results) -> None:
        if source.frame is not None:
            return
        path = self._folder / f"{results.stem}{image_suffix(source.path, otherwise='.jpg')}"
        if self._spares and process_taken() and math.prod(results.orig_shape) > LARGE:
            write_image(path, results.plot(**self._style, inplace=True))
            results.shape, results.orig_img = results.orig_shape, None
        else:
            write_image(path, results.plot(**self._style))


class _LabelWriter(ResultWriter):
    """One text file of polygons for each image."""

    def __init__(self, folder: Path, *, save_conf: bool) -> None:
        self._folder, self._save_conf = folder, save_conf

    def write(self, source: SourceImage, results: Results) -> None:  # noqa: ARG002 - the results say it all
        results.save_txt(self._folder / f"{results.stem}.txt", save_conf=self._save_conf)


class _CropWriter(ResultWriter):
    """One image for each object."""

    def __init__(self, folder: Path, mode: Literal["mask", "box"]) -> None:
        self._folder = folder
        self._mode: Literal["mask", "box"] = mode

    def write(self, source: SourceImage, results: Results) -> None:  # noqa: ARG002 - the results say it all
        results.save_crop(self._folder, mode=self._mode)


class _Document(ResultWriter):
    """One file for the whole run: on disk as it comes, in place when the run has ended."""

    ordered = True

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)

    def _end(self) -> str:
        """Return what the file ends with."""
        return ""

    def close(self, *, complete: bool) -> None:
        try:
            if complete:
                self._file.write(self._end())
                self._file.finish()
        finally:
            self._file.discard()


class _CocoJsonWriter(_Document):
    """All objects of the run as COCO results."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._ids = ImageIds()
        self._separator = "[\n"

    def write(self, source: SourceImage, results: Results) -> None:
        image_id = self._ids.new(results.stem)
        for row in results.to_coco(image_id):
            self._file.write(self._separator + json.dumps({**row, "file_name": source.path}))
            self._separator = ",\n"

    def _end(self) -> str:
        return "[]\n" if self._separator.startswith("[") else "\n]\n"


class _CocoDatasetWriter(_Document):
    """All images of the run and what was found in them as a COCO data set, which annotation tools and segx open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file.write('{"annotations":[')
        self._ids = ImageIds()
        self._images: list[dict[str, Any]] = []
        self._names: dict[int, str] = {}
        self._count = 0

    def write(self, source: SourceImage, results: Results) -> None:
        height, width = results.orig_shape
        image = {
            "id": self._ids.new(results.stem),
            "file_name": _lasting(source, results),
            "height": height,
            "width": width,
        }
        self._images.append(image)
        self._names.update(results.names)
        for row, area in zip(results.to_coco(image["id"]), results.areas.tolist(), strict=True):
            self._count += 1
            whole = {"id": self._count, "segmentation": [], **row, "area": round(area, 3), "iscrowd": 0}
            self._file.write((",\n" if self._count > 1 else "\n") + json.dumps(whole))

    def _end(self) -> str:
        categories = [{"id": number, "name": name} for number, name in sorted(self._names.items())]
        rest = json.dumps({"images": self._images, "categories": categories}, ensure_ascii=False)
        return f"\n],\n{rest[1:]}\n"


def _lasting(source: SourceImage, results: Results) -> str:
    """Return the name by which an image is found from any folder; a frame of a video has that of its drawing."""
    path = Path(source.path)
    return str(path.absolute()) if source.frame is None and path.exists() else f"{results.stem}.jpg"


class _CsvWriter(_Document):
    """All objects of the run as a table, a row for each."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._put(["image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2", "area"])

    def write(self, source: SourceImage, results: Results) -> None:
        for row, area in zip(results.boxes.data.tolist(), results.areas.tolist(), strict=True):
            score, number = row[-2:]
            name = results.names.get(int(number), str(int(number)))
            place = ["" if source.frame is None else source.frame, int(number)]
            box = [f"{value:.2f}" for value in row[:4]]
            self._put([plain_cell(source.path), *place, plain_cell(name), f"{score:.5f}", *box, round(area, 3)])

    def _put(self, cells: Sequence[object]) -> None:
        import csv

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._file.write(text.getvalue())


class _VideoWriter(ResultWriter):
    """Videos with the results drawn in, at the rate at which their frames were taken."""

    ordered = True

    def __init__(self, folder: Path, style: dict[str, Any]) -> None:
        self._folder, self._style = folder, style
        self._open: dict[str, _VideoFile] = {}

    def write(self, source: SourceImage, results: Results) -> None:
        clip = source.clip
        if clip is None:
            return
        name, drawn = results.stem.removesuffix(f"_{source.frame}"), results.plot(**self._style)
        if name not in self._open:
            if not clip.live:  # files come one after the other: those before this one have ended
                self.close(complete=True)
            self._open[name] = _VideoFile(self._folder / f"{name}.mp4", clip, drawn)
        self._open[name].write(drawn, source.seconds)

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
            logger.warning("%s", error.message)  # what broke the run off is the error to report


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
        with quiet():  # what goes wrong is reported once, by close
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
