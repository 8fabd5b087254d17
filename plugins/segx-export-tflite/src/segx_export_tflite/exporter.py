"""Writes ``.tflite`` files with the info appended."""

from __future__ import annotations

import json
import os
import zipfile
from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.plugin.base import FormatExporter
from segx_export_tflite.options import TfliteOptions
from segx_tensorflow.apart import convert

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob

METADATA = "metadata.json"
LABELS = "labels.txt"
_ENDS_IN_BOXES = "yolov8-seg/1"


class TfliteExporter(FormatExporter[TfliteOptions]):
    """TensorFlow Lite files of an ONNX graph."""

    title = "TFLite"
    format = "tflite"
    options = TfliteOptions
    source = "onnx"

    def _check(self, info: ArtifactInfo, options: TfliteOptions) -> None:  # noqa: ARG002 - any model
        if options.values != "float32" and not options.int8:
            msg = f"values={options.values} is for files of 8-bit numbers"
            raise UsageError(msg, hint="int8=True, or leave it out")

    def _export(self, source: Artifact, job: ExportJob, options: TfliteOptions) -> ArtifactInfo:
        return convert(
            "convert:tflite",
            source,
            job,
            what="TensorFlow Lite's converter",
            scratch=job.scratch,
            precision=options.precision,
            raw=options.int8,
            fractions=job.info.head == _ENDS_IN_BOXES,
            values=options.values,
            images=job.images.to_dict() if job.images is not None else None,
            name=job.info.variant,
        )

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Append the info as a zip archive, as files that belong to such a model are; the model itself stays as it is.

        What was appended before is cut off first. Readers of the model do not look at what follows it.
        """
        date = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes
        with path.open("r+b") as file:
            file.truncate(end_of_model(path))
            file.seek(0, os.SEEK_END)
            with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
                texts = {
                    METADATA: json.dumps(info.to_metadata(), indent=1),  # first: other tools read the first file
                    LABELS: "".join(f"{name}\n" for _, name in sorted(info.names.items())),
                }
                for name, text in texts.items():
                    entry = zipfile.ZipInfo(name, date)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, text)


def end_of_model(path: Path) -> int:
    """Return where a model ends and its appended archive begins; the end of the file where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return min(entry.header_offset for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError):  # no archive, or an empty one
        return path.stat().st_size
