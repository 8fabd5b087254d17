"""An event file as TensorBoard reads it: scalars, images and text, written as they come."""

from __future__ import annotations

import itertools
import math
import os
import time
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from segx.io.image_header import image_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from segx.runs import Step

_IMAGES = {".jpg", ".jpeg", ".png"}
_COUNT = itertools.count()


class RunEvents:
    """What TensorBoard shows of one run.

    The file is begun with the first epoch that ends: where a run goes on, TensorBoard has to forget what was written
    from that epoch on, and only then is it known which it is.

    Args:
        folder: The run's folder.
        options: The options of the run, shown as text.
    """

    def __init__(self, folder: Path, *, options: Mapping[str, Any]) -> None:
        self._folder = folder
        self._options = options
        self._writer: RecordWriter | None = None
        self._epoch = 0
        self._waiting: list[Path] = []

    def on_step(self, step: Step) -> None:
        """Write the figures of an epoch under their own names, and every image under its file's."""
        self._waiting += [path for path in step.files if path.suffix.lower() in _IMAGES]
        if step.kind == "epoch":
            self._epoch = int(step.metrics.get("epoch", step.index + 1))
            self._write(_scalars(step.metrics))
        if self._waiting and self._writer is not None:
            self._write([_image(path) for path in self._waiting])
            self._waiting = []

    def end(self, metrics: Mapping[str, float]) -> None:
        """Write what the best weights measure."""
        self._write(_scalars({f"best/{name.removeprefix('metrics/')}": value for name, value in _best(metrics)}))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, values: Iterable[Summary.Value]) -> None:
        """Write values at the present epoch and have them on the disk, so that a run can be watched."""
        if self._writer is None:
            self._writer = self._begin()
        self._event(self._writer, summary=Summary(value=list(values)))
        self._writer.flush()

    def _begin(self) -> RecordWriter:
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}.{next(_COUNT)}"
        writer = RecordWriter((self._folder / name).open("wb"))
        self._event(writer, file_version="brain.Event:2")
        self._event(writer, session_log=SessionLog(status=SessionLog.START))
        self._event(writer, summary=Summary(value=[_text("options", _table(self._options))]))
        return writer

    def _event(self, writer: RecordWriter, **content: Any) -> None:
        event = Event(wall_time=time.time(), step=self._epoch, **content)
        writer.write(event.SerializeToString())


def _scalars(metrics: Mapping[str, float]) -> list[Summary.Value]:
    """Return values of what is a number; what could not be measured leaves a gap."""
    return [
        Summary.Value(tag=name, simple_value=float(value))
        for name, value in metrics.items()
        if name != "epoch" and math.isfinite(value)
    ]


def _best(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in metrics.items() if name == "fitness" or name.startswith("metrics/")]


def _image(path: Path) -> Summary.Value:
    height, width = image_shape(path)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
    return Summary.Value(tag=path.stem, image=image)


def _text(tag: str, markdown: str) -> Summary.Value:
    """Return text for TensorBoard's own text view, which reads Markdown."""
    return Summary.Value(
        tag=f"{tag}/text_summary",
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(
            dtype=DT_STRING,
            string_val=[markdown.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        ),
    )


def _table(options: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in options.items() if value is not None]
    return "\n".join(["| option | value |", "|---|---|", *rows])
