"""Declares TensorFlow as what opens SavedModels and frozen graphs."""

from __future__ import annotations

import os

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy
from segx.runtime import process_taken

SEGX_API = (1, 0)

_BUILDS = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos", "tf-nightly")
"""Distributions that bring the module ``tensorflow``; any one will do."""


def _keep_quiet() -> None:
    """Keep TensorFlow from talking and from writing into the home folder, in a process of segx's own."""
    if process_taken():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Keras, which comes with it, makes a folder for its settings as soon as it is imported. Here it cannot.
        os.environ.setdefault("KERAS_HOME", f"{os.devnull}/keras")


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="tensorflow",
            summary="SavedModels and frozen graphs with TensorFlow, without torch",
            load=lazy("segx_backend_tensorflow.backend:TensorFlowBackend"),
            prepare=_keep_quiet,
            formats={"saved_model": ("_saved_model",), "pb": (".pb",)},
            devices=("cpu", "cuda"),
            apart=True,
            caution="is a program that can read and write files: open it only if you trust who made it",
            requires=(" | ".join(f"{build}>=2.16" for build in _BUILDS), "numpy>=1.26"),
        )
    ]
