"""What is known of a conversion without TensorFlow: how its process is prepared, and which lengths are open."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo


def prepare() -> None:
    """Keep TensorFlow from the graphics card, from talking, and from writing into the home folder; imports nothing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    # Keras makes a folder and writes its settings as soon as it is imported.
    os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), "segx-no-keras"))  # noqa: PTH118


def open_shape(info: ArtifactInfo) -> list[int | None]:
    """Return the lengths of a file's input (N, 3, H, W), None for those that are open."""
    lengths = {"batch": info.batch, "height": info.imgsz[0], "width": info.imgsz[1]}
    batch, height, width = (None if axis in info.dynamic else length for axis, length in lengths.items())
    return [batch, 3, height, width]
