"""Runs a TensorRT engine: one execution context for each thread that asks, images in and outputs back by name."""

from __future__ import annotations

import contextlib
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorrt as trt

from segx.errors import ModelError
from segx.io.files import open_regular
from segx.plugin.base import INPUT_AXES, FormatSession
from segx_backend_tensorrt.gpu import Buffer, Gpu, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

_AGAIN = "export it here: segx export model=... format=engine"


class Logger(trt.ILogger):  # type: ignore[misc]  # a class of a module that need not be installed
    """Keeps what TensorRT calls an error, to be reported in one line, and is silent otherwise."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: list[str] = []

    def log(self, severity: Any, text: str) -> None:
        """Take a message."""
        if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
            self._errors.append(" ".join(text.split()))

    def summary(self) -> str:
        """Return the first error since the last call."""
        first = next(iter(self._errors), "it does not say why")
        self._errors.clear()
        return first


class Engine:
    """An engine on a GPU, and those who run it.

    Attributes:
        gpu: Where it is.
    """

    def __init__(self, gpu: Gpu, contexts: Sequence[Context], kept: Sequence[Any]) -> None:
        """Take over what has been made.

        Args:
            gpu: Where it is.
            contexts: Those who run it, each one thread's at a time.
            kept: What TensorRT needs alive: engine, runtime, logger.
        """
        self.gpu = gpu
        self._kept = list(kept)
        self._count = len(contexts)
        self._free: SimpleQueue[Context | None] = SimpleQueue()
        for context in contexts:
            self._free.put(context)

    def run(self, images: Images) -> dict[str, Array]:
        """Return the outputs by name, as soon as a context is free.

        Raises:
            ModelError: It is closed, or fails.
        """
        context = self._free.get()
        try:
            if context is None:
                raise ModelError("the session is closed", hint="open the model again")
            self.gpu.activate()  # a thread has its own idea of which GPU it is on
            return context.run(images)
        finally:
            self._free.put(context)

    def close(self) -> None:
        """Wait for those at work, and give all memory back; TensorRT's objects go before the GPU's context."""
        self.gpu.activate()
        for _ in range(self._count):
            context = self._free.get()
            if context is not None:
                context.close()
        del context
        while self._kept:
            self._kept.pop(0)
        self.gpu.release()
        self._free.put(None)  # for a thread that came too late


class TensorRtSession(FormatSession[Engine]):
    """An engine that is ready to run."""

    runtime = "TensorRT"

    def _run(self, model: Engine, images: Images) -> dict[str, Array]:
        return model.run(images)

    def close(self) -> None:
        """Free what is on the GPU."""
        engine, self._model = self._model, None
        if engine is not None:
            engine.close()


class Context:
    """An execution context with memory and a stream of its own."""

    def __init__(self, engine: Any, logger: Logger, path: Path) -> None:
        """Make the context.

        Raises:
            ModelError: The GPU has not the memory.
        """
        self._engine, self._logger, self._path = engine, logger, path
        self._input, self._outputs = names_of(engine)
        self._bounds = bounds(engine, self._input)
        self._context = engine.create_execution_context()
        if self._context is None:
            msg = f"{path}: TensorRT cannot prepare to run it ({logger.summary()})"
            raise ModelError(msg, hint="other programs off the GPU, or an engine with a smaller batch or max_imgsz")
        self._buffers = {name: Buffer() for name in (self._input, *self._outputs)}
        self._stream = Stream()

    def run(self, images: Images) -> dict[str, Array]:
        """Return the outputs by name, in the host's memory, for contiguous images.

        Raises:
            ModelError: The images are smaller or larger than the engine takes, or it fails.
        """
        self._check(images.shape)
        feed = images.astype(kind_of(self._engine, self._input), copy=False)
        if not self._context.set_input_shape(self._input, images.shape):
            raise ModelError(f"{self._path}: TensorRT does not take {lengths(images.shape)} ({self._logger.summary()})")
        found = {name: self._room_for(name) for name in self._outputs}
        try:
            self._stream.upload(feed, self._place(self._input, feed.nbytes))
            for name, output in found.items():
                self._place(name, output.nbytes)
            if not self._context.execute_async_v3(self._stream.address):
                raise ModelError(f"{self._path}: TensorRT failed ({self._logger.summary()})")
            for name, output in found.items():
                self._stream.download(self._buffers[name].address, output)
        finally:
            self._stream.wait()  # also after an error: what was asked for reads and writes these arrays
        return found

    def close(self) -> None:
        """Give back context, memory and stream."""
        self._context = self._engine = None
        for buffer in self._buffers.values():
            buffer.free()
        self._stream.destroy()

    def _check(self, shape: Sequence[int]) -> None:
        least, most = self._bounds
        if not all(low <= length <= high for low, length, high in zip(least, shape, most, strict=True)):
            msg = f"{self._path}: takes images from {lengths(least)} to {lengths(most)}, got {lengths(shape)}"
            raise ModelError(msg, hint="export it with a larger max_imgsz or max_batch")

    def _room_for(self, name: str) -> Array:
        """Return an array for an output."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(length < 0 for length in shape):
            raise ModelError(f"{self._path}: how long output {name} is depends on what is seen; segx cannot run that")
        return np.empty(shape, kind_of(self._engine, name))

    def _place(self, name: str, size: int) -> int:
        """Return where a tensor of this many bytes lies, which the context is told."""
        address = self._buffers[name].reserve(size)
        if not self._context.set_tensor_address(name, address):
            raise ModelError(f"{self._path}: TensorRT takes no memory for {name} ({self._logger.summary()})")
        return address


def start(path: Path, offset: int, info: ArtifactInfo, options: SessionOptions) -> Engine:
    """Return an engine that lies on its GPU.

    Args:
        path: The file.
        offset: The byte at which the engine begins.
        info: What is known of it.
        options: Device and streams.

    Raises:
        ModelError: It is damaged, of another GPU or version of TensorRT, or is not what its metadata say.
        UsageError: The device is not there.
    """
    gpu = Gpu(options.device)
    with contextlib.ExitStack() as undo:
        undo.callback(gpu.release)
        gpu.activate()
        logger = Logger()
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(_plan(path, offset))
        if engine is None:
            raise _refused(path, info, gpu, logger.summary())
        check(engine, info, path)
        contexts = []
        for _ in range(options.streams):
            contexts.append(Context(engine, logger, path))
            undo.callback(contexts[-1].close)
        undo.pop_all()
    return Engine(gpu, contexts, kept=(engine, runtime, logger))


def check(engine: Any, info: ArtifactInfo, path: Path) -> None:
    """Refuse an engine that is not what its metadata say.

    Raises:
        ModelError: With what it is.
    """
    source, outputs = names_of(engine)
    if source is None:
        raise ModelError(f"{path}: has not one input; segx runs models with one")
    if set(outputs) != set(info.outputs):
        raise ModelError(f"{path}: gives {', '.join(outputs)}; its metadata name {', '.join(info.outputs)}")
    least, most = bounds(engine, source)
    wanted = (info.batch, 3, *info.imgsz)
    if len(most) != len(wanted) or not all(a <= b <= c for a, b, c in zip(least, wanted, most, strict=True)):
        raise ModelError(
            f"{path}: takes images from {lengths(least)} to {lengths(most)}; its metadata say {lengths(wanted)}"
        )
    fixed = [name for axis, name in INPUT_AXES.items() if name in info.dynamic and least[axis] == most[axis]]
    if fixed:
        raise ModelError(f"{path}: its metadata leave {' and '.join(fixed)} open, the engine does not")


def names_of(engine: Any) -> tuple[Any, list[str]]:
    """Return the name of the input, None where there is not one, and those of the outputs."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return inputs[0] if len(inputs) == 1 else None, [name for name in names if name not in inputs]


def bounds(engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the smallest and the largest shape that an engine takes."""
    shape = tuple(engine.get_tensor_shape(name))
    if -1 not in shape:
        return shape, shape
    least, _, most = engine.get_tensor_profile_shape(name, 0)
    return tuple(least), tuple(most)


def kind_of(engine: Any, name: str) -> np.dtype[Any]:
    """Return NumPy's name for the numbers of a tensor."""
    kind: np.dtype[Any] = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
    return kind


def lengths(shape: Sequence[int]) -> str:
    """Return a shape as people write it."""
    return "x".join(map(str, shape))


def _plan(path: Path, offset: int) -> bytes:
    with open_regular(path) as file:
        file.seek(offset)
        return file.read()


def _refused(path: Path, info: ArtifactInfo, gpu: Gpu, why: str) -> ModelError:
    """Return why an engine does not open: nearly always it was built for something else."""
    built = info.settings.get("engine", {})
    here = f"TensorRT {trt.__version__} on {gpu.name}"
    there = f"TensorRT {built.get('tensorrt', '?')} on {built.get('gpu') or 'a GPU that is not known'}"
    if built and there != here:
        return ModelError(f"{path}: was built with {there}, and {here} does not open it ({why})", hint=_AGAIN)
    msg = f"{path}: {here} does not open it: it is damaged, or built for another GPU or TensorRT ({why})"
    return ModelError(msg, hint=_AGAIN)
