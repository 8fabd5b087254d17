"""Writes TensorRT engines: an ONNX graph that says its own precisions, built for the GPU that is here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from segx.errors import UsageError
from segx.io.paths import cache_folder
from segx.options.schema import image_size
from segx.plugin.base import INPUT_AXES, FormatExporter
from segx.runtime import child, parse_device
from segx_export_tensorrt.options import MAX_BATCH, EngineOptions

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo
    from segx.plugin.jobs import ExportJob

_VISIBLE = "CUDA_VISIBLE_DEVICES"
LARGER = 2
"""How many times as large as ``imgsz`` the images of a dynamic engine may be, where nothing else is asked for."""


class EngineExporter(FormatExporter[EngineOptions]):
    """Engines that TensorRT runs, with the info beside so that TensorRT's own tools can read them."""

    title = "TensorRT"
    format = "engine"
    options = EngineOptions
    source = "onnx"
    library = "tensorrt"
    """The module that builds. TensorRT for RTX has the same interface; segx's tests build with it."""

    def _check(self, info: ArtifactInfo, options: EngineOptions) -> None:
        if not options.dynamic:
            for name, usual in (("max_batch", MAX_BATCH), ("max_imgsz", None)):
                if (value := getattr(options, name)) != usual:
                    msg = f"{name}={value} is for engines with open axes"
                    raise UsageError(msg, hint="dynamic=True, or leave it out: batch= and imgsz= fix the input")
        elif options.max_imgsz is not None:
            wanted = image_size(info.imgsz if options.imgsz is None else options.imgsz, info.stride)
            most = image_size(options.max_imgsz, info.stride)
            if any(side > longest for side, longest in zip(wanted, most, strict=True)):
                msg = f"max_imgsz={most[0]},{most[1]} is smaller than imgsz={wanted[0]},{wanted[1]}"
                raise UsageError(msg, hint="max_imgsz is the largest size that the engine takes")
        visible_devices(options.device, os.environ.get(_VISIBLE))

    def _export(self, source: Any, job: ExportJob, options: EngineOptions) -> ArtifactInfo:
        arguments = {
            "source": str(source.path),
            "target": str(job.destination),
            "library": self.library,
            "profile": profile(job.info, options),
            "workspace": options.workspace,
            "cache": str(cache_folder() / "runtimes" / "tensorrt"),
            "quantised": job.info.precision == "int8",
        }
        seen = visible_devices(options.device, os.environ.get(_VISIBLE))
        made = child.call(
            "segx_export_tensorrt.building:build",
            arguments,
            what="TensorRT",
            notify=job.notify,
            environment={} if seen is None else {_VISIBLE: seen},
        )
        # What an engine can be opened with is no more than that: whoever opens it elsewhere is told so.
        engine = {"gpu": made["gpu"], "tensorrt": made["version"], "profile": arguments["profile"]}
        return job.info.replace(
            versions={**job.info.versions, self.library: made["version"]},
            settings={**job.info.settings, "engine": engine},
        )


def profile(info: ArtifactInfo, options: EngineOptions) -> dict[str, list[int]]:
    """Return the smallest shape that an engine takes, the one it is tuned for, and the largest.

    Args:
        info: Of the file that is to be made; axes that are not open have one length.
        options: ``max_batch`` and ``max_imgsz``.
    """
    largest = (
        image_size(options.max_imgsz, info.stride) if options.max_imgsz else [LARGER * side for side in info.imgsz]
    )
    usual = [info.batch, 3, *info.imgsz]
    bounds = {"min": [1, 3, info.stride, info.stride], "opt": usual, "max": [options.max_batch, 3, *largest]}
    open_axes = {axis for axis, name in INPUT_AXES.items() if name in info.dynamic}
    return {
        word: [length if axis in open_axes else usual[axis] for axis, length in enumerate(shape)]
        for word, shape in bounds.items()
    }


def visible_devices(device: str | None, visible: str | None) -> str | None:
    """Return what ``CUDA_VISIBLE_DEVICES`` has to be for a device to be the first that is seen; None: as it is.

    Args:
        device: ``cuda``, ``0``, ``cuda:1``. ``cpu``, where a source model may run, and None leave it as it is.
        visible: What the variable is now.

    Raises:
        UsageError: It is no GPU of NVIDIA's, or not one that may be seen.
    """
    kind, number = parse_device(device or "cpu")
    if kind not in {"cpu", "cuda"} or (number and not number.isdecimal()):
        raise UsageError(
            f"device={device}: TensorRT builds on GPUs of NVIDIA", hint="device=0, cuda:1, or leave it out"
        )
    if kind == "cpu" or not number:
        return None
    if visible is None:
        return str(int(number))
    seen = [name.strip() for name in visible.split(",") if name.strip()]
    if int(number) >= len(seen):
        raise UsageError(f"device={device}: {_VISIBLE}={visible} lets {len(seen)} be seen")
    return seen[int(number)]
