"""Runs a model with OpenVINO: what it is told, and what it is fed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError, UsageError, reason
from segx.io.paths import cache_folder
from segx.plugin.base import FormatSession, Graph
from segx.runtime import cores
from segx_backend_openvino import devices, ir

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # else the import writes into ~/intel
import openvino as ov  # noqa: E402 - after that

from segx_backend_openvino.compiled import AnyShape, Compiled, channels_moved_last  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

logger = logging.getLogger(__name__)

_CORE = ov.Core()
_CACHE = "runtimes"
"""The part of segx's cache folder for what runtimes compile."""
_PLACES = ("Exception from ", "While validating")
"""How lines of an error begin that only say where in OpenVINO's source it was raised."""


class OpenvinoSession(FormatSession[Compiled | AnyShape]):
    """A model that is ready to run, from several threads at once."""

    runtime = "OpenVINO"

    def __init__(self, model: Compiled | AnyShape, *, path: Path, info: ArtifactInfo, device: str) -> None:
        super().__init__(model, path=path, info=info, device=device)
        self.channels_last = model.channels_last

    def _run(self, model: Compiled | AnyShape, images: Images) -> list[Array]:
        return model.run(images)


def available() -> list[str]:
    """Return the devices that OpenVINO finds here, as it calls them."""
    return list(_CORE.available_devices)


def read_model(file: Path) -> ov.Model:
    """Return OpenVINO's model of a file.

    Raises:
        ModelError: It is damaged.
        OSError: It is missing.
    """
    file.stat()
    try:
        return _CORE.read_model(str(file))
    except Exception as error:
        said = reason(error, passing=_PLACES)
        msg = f"{file}: is damaged, or OpenVINO {ov.__version__.partition('-')[0]} cannot read it ({said})"
        raise ModelError(msg, hint="copy or export it again") from error


def read_header(file: Path) -> tuple[Mapping[str, Any], Graph]:
    """Return the metadata of an ONNX file and what its graph says.

    Raises:
        ModelError: The file is damaged, or takes something else than images.
        OSError: It is missing.
    """
    model = read_model(file)
    if len(model.inputs) != 1:
        raise ModelError(f"{file}: has {len(model.inputs)} inputs; segx runs models with one")
    source = model.input(0)
    shape = [None if length.is_dynamic else length.get_length() for length in source.get_partial_shape()]
    kind = source.get_element_type()
    if len(shape) != 4 or shape[1] not in {3, None} or kind not in {ov.Type.f32, ov.Type.f16}:
        msg = f"{file}: its input does not take float images Nx3xHxW; its shape is {source.get_partial_shape()}"
        raise ModelError(msg, hint="export the model again with segx export format=onnx")
    metadata = model.get_rt_info("framework").value if model.has_rt_info("framework") else {}
    outputs = [output.get_any_name() for output in model.outputs]
    return metadata, Graph(input=shape, outputs=outputs, precision="fp16" if kind == ov.Type.f16 else "")


def start(file: Path, path: Path, info: ArtifactInfo, options: SessionOptions) -> OpenvinoSession:
    """Return a session.

    Args:
        file: The graph.
        path: What the user named: the graph or its folder.
        info: What is known of the model.
        options: How to open it.

    Raises:
        ModelError: The file is damaged, or the device cannot run it.
        UsageError: The device is not there.
    """
    device = devices.choose(options.device, available())
    size = ir.weights_file(file).stat().st_size
    model = read_model(file)
    if file.suffix.lower() == ".onnx" and any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        # It takes a second more; compiled as it has been read, OpenVINO 2026.4 finds nothing with 8 bits.
        model = ov.convert_model(str(file))

    def prepare(shape: tuple[int, ...] | None = None) -> Compiled:
        return _prepared(model, device, settings(device, info.precision, options), info.outputs, shape)

    try:
        begin = time.perf_counter()
        ready = prepare()
        taken = time.perf_counter() - begin
    except Exception as error:
        said = reason(error, passing=_PLACES)
        if device == devices.CPU:
            raise ModelError(f"{path}: OpenVINO cannot prepare it ({said})") from error
        msg = f"{path}: OpenVINO cannot prepare it for device={options.device or device} ({said})"
        raise UsageError(msg, hint="device=cpu") from error
    where = _executing(ready.model, device)
    if device == devices.CPU and model.input(0).get_partial_shape().is_dynamic:  # not only inside, as suppression is
        return OpenvinoSession(AnyShape(ready, prepare, seconds=taken, size=size), path=path, info=info, device=where)
    return OpenvinoSession(ready, path=path, info=info, device=where)


def _prepared(
    model: ov.Model, device: str, chosen: Mapping[str, Any], names: Sequence[str], shape: tuple[int, ...] | None
) -> Compiled:
    """Return a model compiled for a device; on a CPU its channels are where that computes them.

    Args:
        model: What was read; it stays as it is.
        device: As OpenVINO calls it.
        chosen: What OpenVINO is told.
        names: Of the outputs.
        shape: The only one it is to take; None: those it takes.
    """
    if shape is not None:
        model = model.clone()
        model.reshape(list(shape))
    maps = None
    if device == devices.CPU:
        model, maps = channels_moved_last(model)
    return Compiled(_CORE.compile_model(model, device, chosen), names, maps)


def settings(device: str, precision: str, options: SessionOptions) -> dict[str, Any]:
    """Return what OpenVINO is told for a device.

    Whatever it is asked for: the precision is always told, for by itself it computes in what the device is fastest in,
    and boxes are tens of pixels off then. Of threads the CPU has as many as are given for each run that is made at
    once.

    Args:
        device: As OpenVINO calls it.
        precision: Of the model.
        options: How to open it.
    """
    streams = options.streams
    chosen: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT"}
    if number := _number_format(device, precision):
        chosen["INFERENCE_PRECISION_HINT"] = number
    if device != devices.CPU:
        return chosen | _cache()  # compiling takes up to minutes; on the CPU a tenth of a second, so nothing is kept
    chosen["NUM_STREAMS"], chosen["ENABLE_CPU_PINNING"] = streams, False
    restricted = cores() if cores() < (os.cpu_count() or 1) else 0
    if threads := options.threads * streams if options.threads else restricted:
        chosen["INFERENCE_NUM_THREADS"] = threads
    return chosen


def _number_format(device: str, precision: str) -> str:
    """Return the numbers to compute in, as OpenVINO calls them; an empty string where there is no choice."""
    if ":" in device or device == devices.AUTO:
        return "f32"  # on a CPU among them, half precision would be another format than on a GPU
    capabilities = list(_CORE.get_property(device, "OPTIMIZATION_CAPABILITIES"))
    if precision == "bf16":
        if "BF16" in capabilities:
            return "bf16"
        logger.info("%s has no bfloat16: computing in 32 bits", device)
    if precision == "fp16" and device != devices.CPU and "FP16" in capabilities:
        return "f16"
    if device == devices.CPU or "FP32" in capabilities:
        return "f32"
    logger.warning("%s computes in its own precision only: results are not those that were proven", device)
    return ""


def _cache() -> dict[str, str]:
    """Return where OpenVINO may keep what it has compiled; nothing where nothing can be written."""
    with contextlib.suppress(OSError, UsageError):
        folder = cache_folder() / _CACHE / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return {"CACHE_DIR": str(folder)}
    return {}


def _executing(compiled: ov.CompiledModel, device: str) -> str:
    """Return where a model really runs, in small letters: of AUTO the device that was chosen."""
    found: Sequence[str] = [device]
    with contextlib.suppress(RuntimeError):  # not all devices say so
        found = compiled.get_property("EXECUTION_DEVICES") or found
    return ",".join(str(name).strip("()") for name in found).lower()
