"""Stand-ins of TensorRT's runtime and of CUDA's driver, which keep their rules and compute on the host.

An engine is ``ftrt`` and a JSON text: names, kinds and bounds of its input and outputs, and its version. It
doubles the images (``output0``) and takes their mean over the colours (``output1``). What would be an error or a crash
on a GPU is an AssertionError here: memory that is freed twice or not at all, or used without a context; a stream
that is not waited for.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from dataclasses import dataclass, field

import numpy as np


class Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100


OK = Code.CUDA_SUCCESS


@dataclass
class Driver:
    """``cuda.bindings.driver`` of a machine with some GPUs."""

    gpus: tuple[str, ...] = ("Stand-in 9000",)
    most: int = 1 << 30
    memory: dict = field(default_factory=dict)
    streams: dict = field(default_factory=dict)
    retained: int = 0
    current: object = None
    allocations: int = 0
    CUstream_flags = types.SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def cuInit(self, _flags):  # noqa: N802
        return (OK if self.gpus else Code.CUDA_ERROR_NO_DEVICE,)

    def cuDeviceGetCount(self):  # noqa: N802
        return OK, len(self.gpus)

    def cuDeviceGet(self, index):  # noqa: N802
        return OK, index

    def cuDeviceGetName(self, length, handle):  # noqa: N802
        return OK, self.gpus[handle].encode().ljust(length, b"\0")

    def cuDevicePrimaryCtxRetain(self, handle):  # noqa: N802
        self.retained += 1
        return OK, ("context", handle)

    def cuDevicePrimaryCtxRelease(self, _handle):  # noqa: N802
        self.retained -= 1
        assert self.retained >= 0
        if not self.retained:
            self.current = None
        return (OK,)

    def cuCtxSetCurrent(self, context):  # noqa: N802
        self.current = context
        return (OK,)

    def cuMemAlloc(self, size):  # noqa: N802
        assert self.current, "no context"
        if size + sum(len(block) for block in self.memory.values()) > self.most:
            return Code.CUDA_ERROR_OUT_OF_MEMORY, None
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        self.allocations += 1
        return OK, ctypes.addressof(block)

    def cuMemFree(self, address):  # noqa: N802
        assert self.current, "no context"
        del self.memory[address]
        return (OK,)

    def cuStreamCreate(self, _flags):  # noqa: N802
        handle = len(self.streams) + 1
        self.streams[handle] = []
        return OK, handle

    def cuStreamDestroy(self, handle):  # noqa: N802
        assert self.streams.pop(handle) == [], "work was not waited for"
        return (OK,)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):  # noqa: N802
        assert size <= len(self.memory[target])
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size))
        return (OK,)

    def cuMemcpyDtoHAsync(self, target, source, size, stream):  # noqa: N802
        assert size <= len(self.memory[source])
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size))
        return (OK,)

    def cuStreamSynchronize(self, stream):  # noqa: N802
        while self.streams[stream]:
            self.streams[stream].pop(0)()
        return (OK,)


def engine_bytes(
    *, least=(1, 3, 64, 96), most=None, kind="float32", outputs=("output0", "output1"), version="10.9", **changes
) -> bytes:
    """Return the file of an engine."""
    most = list(most or least)
    shape = [low if low == high else -1 for low, high in zip(least, most, strict=True)]
    content = {"shape": shape, "least": list(least), "most": most, "kind": kind, "outputs": list(outputs)}
    return b"ftrt" + json.dumps({**content, "version": version, "inputs": ["images"], **changes}).encode()


def tensorrt(driver: Driver, version: str = "10.9"):
    """Return a module ``tensorrt`` whose engines lie in the memory of this driver."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class Logger(ILogger):
        def __init__(self, least):
            self.least = least

        def log(self, severity, text):
            assert severity > self.least, text

    class TensorIOMode(enum.Enum):
        INPUT = 1
        OUTPUT = 2

    class Runtime:
        def __init__(self, logger):
            assert driver.current, "a runtime belongs to the GPU that is current"
            self.logger = logger

        def deserialize_cuda_engine(self, content):
            try:
                assert content[:4] == b"ftrt"
                told = json.loads(content[4:])
            except (AssertionError, ValueError):
                self.logger.log(ILogger.ERROR, "magicTag does not match\nin stand-in")
                return None
            if told["version"] != version:
                self.logger.log(ILogger.ERROR, "The engine plan file is not compatible with this version")
                return None
            return Engine(told, self.logger)

    class Engine:
        def __init__(self, told, logger):
            self.told, self.logger = told, logger
            self.names = [*told["inputs"], *told["outputs"]]
            self.num_io_tensors = len(self.names)

        def get_tensor_name(self, index):
            return self.names[index]

        def get_tensor_mode(self, name):
            return TensorIOMode.INPUT if name in self.told["inputs"] else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, _name):
            return self.told["kind"]

        def get_tensor_shape(self, _name):
            return tuple(self.told["shape"])

        def get_tensor_profile_shape(self, _name, index):
            assert index == 0
            return self.told["least"], self.told["least"], self.told["most"]

        def create_execution_context(self):
            return None if self.told.get("no_context") else Context(self)

    class Context:
        def __init__(self, engine):
            self.engine, self.shape, self.at = engine, None, {}

        def set_input_shape(self, name, shape):
            told = self.engine.told
            assert name in told["inputs"]
            fits = all(a <= b <= c for a, b, c in zip(told["least"], shape, told["most"], strict=True))
            self.shape = tuple(shape) if fits else self.shape
            return fits

        def get_tensor_shape(self, name):
            if self.engine.told.get("unknown") == name:
                return (-1, 3)
            batch, _, height, width = self.shape
            return self.shape if name == "output0" else (batch, 1, height, width)

        def set_tensor_address(self, name, address):
            assert address in driver.memory
            self.at[name] = address
            return True

        def execute_async_v3(self, stream):
            assert driver.current, "no context"
            if self.engine.told.get("fails"):
                self.engine.logger.log(ILogger.ERROR, "an illegal memory access was encountered")
                return False
            shape, at, kind = self.shape, dict(self.at), np.dtype(self.engine.told["kind"])
            assert set(at) == set(self.engine.names)

            def array(name, size):
                block = driver.memory[at[name]]
                return np.frombuffer(block, kind, count=int(np.prod(size))).reshape(size)

            def work():
                images = array("images", shape)
                array("output0", shape)[:] = images * kind.type(2)
                array("output1", (shape[0], 1, *shape[2:]))[:] = images.mean(1, keepdims=True)

            driver.streams[stream].append(work)
            return True

    module = types.ModuleType("tensorrt")
    module.__version__ = version
    module.ILogger, module.Logger, module.Runtime = ILogger, Logger, Runtime
    module.TensorIOMode, module.nptype = TensorIOMode, np.dtype
    return module
