"""How a process that is to import TensorFlow is prepared; imports nothing."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Keep TensorFlow from the graphics card, from talking, and from writing into the home folder; imports nothing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Keras, which comes with it, makes a folder for its settings as soon as it is imported. Here it cannot.
    os.environ["KERAS_HOME"] = f"{os.devnull}/keras"
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Keras imports it, and it writes a list of fonts
