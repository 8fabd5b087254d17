"""Which distribution provides what, for hints in errors; written by scripts/generate_known_plugins.py."""

from __future__ import annotations

from segx.records import Record


class KnownFormat(Record):
    """A model format of the official distributions.

    Attributes:
        suffixes: How its files or folders are named, the one that export writes first.
        exporter: The distribution that writes it, or an empty string.
        backends: The distributions that run it.
    """

    suffixes: tuple[str, ...]
    exporter: str
    backends: tuple[str, ...]


PROVIDERS: dict[tuple[str, str], str] = {
    ("architecture", "yolov8-seg"): "segx-model-yolov8",
    ("backend", "coreml"): "segx-backend-coreml",
    ("backend", "coreml-reference"): "segx-backend-coreml",
    ("backend", "executorch"): "segx-backend-executorch",
    ("backend", "litert"): "segx-backend-litert",
    ("backend", "mnn"): "segx-backend-mnn",
    ("backend", "ncnn"): "segx-backend-ncnn",
    ("backend", "onnxruntime"): "segx-backend-onnxruntime",
    ("backend", "opencv"): "segx-backend-opencv",
    ("backend", "openvino"): "segx-backend-openvino",
    ("backend", "paddle"): "segx-backend-paddle",
    ("backend", "tensorflow"): "segx-backend-tensorflow",
    ("backend", "tensorrt"): "segx-backend-tensorrt",
    ("backend", "tfjs"): "segx-backend-tfjs",
    ("backend", "torch"): "segx-torch",
    ("backend", "torchscript"): "segx-backend-torchscript",
    ("command", "bulk"): "segx-bulk-ray",
    ("command", "data-synth"): "segx-data-synth",
    ("command", "tfjs"): "segx-backend-tfjs",
    ("dataset_format", "coco"): "segx-data-coco",
    ("dataset_format", "labelme"): "segx-data-labelme",
    ("dataset_format", "yolo"): "segx-data-yolo",
    ("exporter", "coreml"): "segx-export-coreml",
    ("exporter", "edgetpu"): "segx-export-edgetpu",
    ("exporter", "engine"): "segx-export-tensorrt",
    ("exporter", "executorch"): "segx-export-executorch",
    ("exporter", "mnn"): "segx-export-mnn",
    ("exporter", "ncnn"): "segx-export-ncnn",
    ("exporter", "onnx"): "segx-export-onnx",
    ("exporter", "openvino"): "segx-export-openvino",
    ("exporter", "paddle"): "segx-export-paddle",
    ("exporter", "pb"): "segx-export-pb",
    ("exporter", "saved_model"): "segx-export-saved-model",
    ("exporter", "tfjs"): "segx-export-tfjs",
    ("exporter", "tflite"): "segx-export-tflite",
    ("exporter", "torchscript"): "segx-export-torchscript",
    ("task", "segment"): "segx-task-segment",
}
"""Kind and name to the distribution that provides it."""

FORMATS: dict[str, KnownFormat] = {
    "coreml": KnownFormat(
        suffixes=(".mlpackage",),
        exporter="segx-export-coreml",
        backends=("segx-backend-coreml", "segx-backend-coreml"),
    ),
    "edgetpu": KnownFormat(
        suffixes=("_edgetpu.tflite",),
        exporter="segx-export-edgetpu",
        backends=("segx-backend-litert",),
    ),
    "engine": KnownFormat(
        suffixes=(".engine",),
        exporter="segx-export-tensorrt",
        backends=("segx-backend-tensorrt",),
    ),
    "executorch": KnownFormat(
        suffixes=("_executorch_model",),
        exporter="segx-export-executorch",
        backends=("segx-backend-executorch",),
    ),
    "mnn": KnownFormat(
        suffixes=(".mnn",),
        exporter="segx-export-mnn",
        backends=("segx-backend-mnn",),
    ),
    "ncnn": KnownFormat(
        suffixes=("_ncnn_model",),
        exporter="segx-export-ncnn",
        backends=("segx-backend-ncnn",),
    ),
    "onnx": KnownFormat(
        suffixes=(".onnx",),
        exporter="segx-export-onnx",
        backends=("segx-backend-onnxruntime", "segx-backend-openvino", "segx-backend-opencv"),
    ),
    "openvino": KnownFormat(
        suffixes=("_openvino_model", ".xml"),
        exporter="segx-export-openvino",
        backends=("segx-backend-openvino",),
    ),
    "paddle": KnownFormat(
        suffixes=("_paddle_model",),
        exporter="segx-export-paddle",
        backends=("segx-backend-paddle",),
    ),
    "pb": KnownFormat(
        suffixes=(".pb",),
        exporter="segx-export-pb",
        backends=("segx-backend-tensorflow",),
    ),
    "pt": KnownFormat(
        suffixes=(".pt", ".pth", ".safetensors"),
        exporter="",
        backends=("segx-torch",),
    ),
    "saved_model": KnownFormat(
        suffixes=("_saved_model",),
        exporter="segx-export-saved-model",
        backends=("segx-backend-tensorflow",),
    ),
    "tfjs": KnownFormat(
        suffixes=("_web_model",),
        exporter="segx-export-tfjs",
        backends=("segx-backend-tfjs",),
    ),
    "tflite": KnownFormat(
        suffixes=(".tflite",),
        exporter="segx-export-tflite",
        backends=("segx-backend-litert",),
    ),
    "torchscript": KnownFormat(
        suffixes=(".torchscript",),
        exporter="segx-export-torchscript",
        backends=("segx-backend-torchscript",),
    ),
}
"""Format to how it is named on disk, and who writes and runs it."""

PLANNED: frozenset[str] = frozenset()
"""Distributions that are announced and not released yet."""
