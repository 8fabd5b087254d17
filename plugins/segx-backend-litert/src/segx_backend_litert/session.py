"""Runs a ``.tflite`` model: what LiteRT is told, and what it is fed."""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

from segx.errors import ModelError, UsageError
from segx.plugin.base import FormatSession, paired_outputs
from segx.runtime import choose_device, cores
from segx_backend_litert import delegate
from segx_backend_litert.flatbuffer import channels_first, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

_ANCHORS_FIRST = frozenset({"boxes", "scores", "coefficients"})
"""Outputs of a raw head, which lie (N, anchors, channels) in such a file."""
_READ_WHOLE = "scores"
"""The one of which all numbers are read, class by class. Of the others and of maps few are: they stay as they lie."""
_FRACTIONS = 2.0
"""Centres of boxes beyond this are in pixels."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of an interpreter.

    Attributes:
        index: Its number.
        type: What its numbers are.
        scale: What a step of an integer is worth; 0 for floats.
        zero: The integer that means 0.
        shape: Its lengths.
    """

    index: int
    type: Any
    scale: float
    zero: int
    shape: tuple[int, ...]


class Pool:
    """Interpreters of one model; each runs one batch at a time, and there are as many as run side by side.

    Args:
        make: Makes one.
        most: How many there may be.
    """

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self._make, self._most = make, most
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._made = 0
        first = self._new()
        self.input, self.outputs = _tensors(first)
        self._idle.put(first)

    @contextlib.contextmanager
    def lend(self) -> Iterator[Any]:
        """Lend an interpreter that nobody uses; wait for one where all are in use."""
        interpreter = self._next()
        try:
            yield interpreter
        finally:
            self._idle.put(interpreter)

    def _next(self) -> Any:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            if self._made < self._most:
                return self._new()
        return self._idle.get()

    def _new(self) -> Any:
        interpreter = self._make()
        interpreter.allocate_tensors()
        self._made += 1
        return interpreter


class LiteRtSession(FormatSession[Pool]):
    """A model that is ready to run."""

    runtime: ClassVar[str] = "LiteRT"

    def _run(self, model: Pool, images: Images) -> Mapping[str, Array]:
        with model.lend() as interpreter:
            _fill(interpreter.tensor(model.input.index)(), images, model.input)
            interpreter.invoke()
            as_onnx = channels_first(model.input.shape)
            outputs = {
                name: _taken(name, interpreter.tensor(tensor.index)(), tensor, as_onnx=as_onnx)
                for name, tensor in model.outputs.items()
            }
        flat = outputs[self.info.outputs[0]]
        if self.info.decoding.get("boxes") == "fractions" or (not self.info.versions and _in_fractions(flat)):
            _into_pixels(flat, *images.shape[2:])
        return outputs


def start(path: Path, info: ArtifactInfo, options: SessionOptions) -> tuple[Pool, str]:
    """Return the interpreters of a file, and the device that they run on.

    Raises:
        UsageError: The device is not there.
        ModelError: The model has other outputs than its metadata say.
    """
    if (unit := info.decoding.get("boxes")) not in {None, "fractions"}:
        raise ModelError(f"{path}: boxes in {str(unit)[:50]!r} are not known", hint="export it again, or update segx")
    device = _device(options.device, path, compiled=read_header(path).compiled)
    streams = options.streams
    threads = options.threads or max(1, cores() // streams)
    delegates = [_edge_tpu()] if device == "tpu" else []

    def make() -> Any:
        return Interpreter(model_path=str(path), num_threads=threads, experimental_delegates=delegates)

    pool = Pool(make, 1 if delegates else max(streams, 1))
    ranks = {name: len(tensor.shape) for name, tensor in pool.outputs.items()}
    pool.outputs = {name: pool.outputs[own] for name, own in paired_outputs(ranks, info.outputs, path).items()}
    return pool, device


def _device(wanted: str | None, path: Path, *, compiled: bool) -> str:
    """Return the device that runs a file: what is compiled for an Edge TPU runs there, and what is not runs elsewhere.

    Raises:
        UsageError: It is not there.
    """
    device = choose_device(wanted, delegate.devices())
    if not compiled:
        if device == "tpu":
            msg = f"device=tpu: {path} is not compiled for an Edge TPU"
            raise UsageError(msg, hint=f"edgetpu_compiler -s {path.name}, or device=cpu")
        return device
    if "tpu" not in delegate.devices():
        msg = f"{path}: is compiled for an Edge TPU, whose library ({delegate.NAME}) is not installed here"
        raise UsageError(msg, hint="coral.ai/software has it; on a CPU run a file exported with compile=False")
    if wanted is not None and device != "tpu":
        raise UsageError(f"device={wanted}: {path} is compiled for an Edge TPU", hint="device=tpu, or leave it out")
    return "tpu"


def _edge_tpu() -> Any:
    try:
        ctypes.CDLL(delegate.library())  # LiteRT's own loader stumbles over a library that is not there
        return load_delegate(delegate.library())
    except (ValueError, OSError) as error:
        msg = "device=tpu: Coral's library is installed, but no Edge TPU answers"
        raise UsageError(msg, hint="is it plugged in, and may this user open it? Or device=cpu") from error


def _tensors(interpreter: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the input, and the outputs by the names of the signature; else by the names of the tensors."""
    (source,) = interpreter.get_input_details()
    if interpreter.get_signature_list():
        outputs = interpreter.get_signature_runner().get_output_details()
    else:
        outputs = {item["name"]: item for item in interpreter.get_output_details()}
    return _tensor(source), {name: _tensor(item) for name, item in outputs.items()}


def _tensor(details: Mapping[str, Any]) -> Tensor:
    scale, zero = details["quantization"]
    shape = tuple(map(int, details["shape"]))
    return Tensor(index=int(details["index"]), type=details["dtype"], scale=float(scale), zero=int(zero), shape=shape)


def _fill(place: Any, images: Images, tensor: Tensor) -> None:
    """Write images (N, 3, H, W), in 0..1, into an input (N, H, W, 3): one pass where NumPy takes six."""
    write = np.copyto if channels_first(tensor.shape) else _interleave
    if not tensor.scale:
        for image, out in zip(images, place, strict=True):
            write(out, list(image))
        return
    signed = tensor.type == np.int8
    zero = tensor.zero + (128 if signed else 0)
    steps = place.view(np.uint8)
    for image, out in zip(images, steps, strict=True):
        write(out, [cv2.convertScaleAbs(plane, alpha=1 / tensor.scale, beta=zero) for plane in image])
    if signed:
        steps ^= 128


def _interleave(out: Any, planes: Sequence[Any]) -> None:
    cv2.merge(planes, out)


def _is_turned(name: str, tensor: Tensor) -> bool:
    """Say whether the channels of an output come last, which are first in ONNX."""
    return len(tensor.shape) == 4 or name in _ANCHORS_FIRST


def _in_fractions(flat: Array) -> bool:
    """Say whether the boxes of another tool's file are fractions of the image.

    Anchors lie all over an image, so that the largest centre tells.
    """
    return flat.ndim == 3 and flat.shape[1] > 4 and float(np.abs(flat[:, :2]).max()) <= _FRACTIONS


def _into_pixels(flat: Array, height: int, width: int) -> None:
    """Bring boxes that are fractions of the image into pixels, as they are in other formats."""
    flat[:, 0:4:2] *= np.float32(width)
    flat[:, 1:4:2] *= np.float32(height)


def _taken(name: str, output: Any, tensor: Tensor, *, as_onnx: bool) -> Array:
    """Return a copy of an output, float32, its axes as in ONNX: the interpreter writes into the same place again."""
    last = not as_onnx and _is_turned(name, tensor)
    whole = last and name == _READ_WHOLE
    if whole:
        rows = [cv2.transpose(image) for image in output]
        output = np.stack(rows) if len(rows) > 1 else rows[0][None]
    if tensor.scale:  # one pass in which OpenCV widens and subtracts, a quarter of the time that NumPy takes for two
        zero: Any = float(tensor.zero)  # a number, of which OpenCV's stubs do not know
        flat = cv2.subtract(output.reshape(1, -1), zero, dtype=cv2.CV_32F)
        flat *= np.float32(tensor.scale)
        taken: Array = flat.reshape(output.shape)
    else:
        taken = (np.asarray if whole else np.array)(output, dtype=np.float32)
    return np.moveaxis(taken, -1, 1) if last and not whole else taken
