"""What is known of a conversion without TensorFlow: how its process is prepared, and which lengths are open."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo


def prepare() -> None:
    """Keep TensorFlow from the graphics card, from talking, and from writing into the home folder; imports nothing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Keras, which comes with it, makes a folder for its settings as soon as it is imported. Here it cannot.
    os.environ["KERAS_HOME"] = f"{os.devnull}/keras"
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Keras imports it, and it writes a list of fonts


def open_shape(info: ArtifactInfo) -> list[int | None]:
    """Return the lengths of a file's input (N, 3, H, W), None for those that are open."""
    lengths = {"batch": info.batch, "height": info.imgsz[0], "width": info.imgsz[1]}
    batch, height, width = (None if axis in info.dynamic else length for axis, length in lengths.items())
    return [batch, 3, height, width]
