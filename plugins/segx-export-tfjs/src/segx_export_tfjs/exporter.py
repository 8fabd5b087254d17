"""Writes TensorFlow.js models, each with a page that uses it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from segx.plugin.base import FormatExporter
from segx_export_tfjs.options import TfjsOptions
from segx_tensorflow.apart import convert
from segx_tfjs.runtime import LICENCE, for_a_page

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob

_PAGE = Path(__file__).with_name("page")
LIBRARY = "tfjs"
"""The folder of TensorFlow.js within that of the model."""
_DECODED = "yolov8-seg/1"


class TfjsExporter(FormatExporter[TfjsOptions]):
    """Folders that TensorFlow.js loads, and that any web server serves as a page."""

    title = "TensorFlow.js"
    format = "tfjs"
    options = TfjsOptions
    source = "onnx"

    def _export(self, source: Artifact, job: ExportJob, options: TfjsOptions) -> ArtifactInfo:
        job.destination.mkdir(parents=True, exist_ok=True)
        made = convert(
            "web_model:web_model",
            source,
            job,
            scratch=job.scratch,
            precision=options.precision,
            about={"names": list(job.info.names.items()), "variant": job.info.variant, "head": job.info.head},
        )
        if job.info.head == _DECODED:
            write_page(job.destination)
        return made


def write_page(folder: Path) -> bool:
    """Put the page into a model's folder, and TensorFlow.js where it is installed; return whether it is.

    A page without it says in words what to do.
    """
    for file in sorted(_PAGE.iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    files = for_a_page()
    if files is None:
        return False
    place = folder / LIBRARY
    place.mkdir()
    shutil.copyfile(LICENCE, place / "LICENSE")
    for name, path in files.items():
        shutil.copyfile(path, place / name)
    return True
