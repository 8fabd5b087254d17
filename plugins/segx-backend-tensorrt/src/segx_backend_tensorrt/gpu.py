"""Memory and streams of one GPU, through CUDA's driver.

The driver's own interface is used and not the runtime library above it: what is installed of that is made for one
version of CUDA, and the driver of the machine may be of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cuda.bindings import driver

from segx.errors import ModelError, UsageError
from segx.runtime import choose_device

if TYPE_CHECKING:
    from segx.structures.types import Array

_NOTHING_HERE = "pip install a driver of NVIDIA's, pass the GPU into the container, or use another format"
_LONGEST_NAME = 256


def devices() -> list[str]:
    """Return the GPUs that CUDA finds: ``["cuda:0", "cuda:1"]``; none where there is no driver."""
    try:
        _asked(driver.cuInit(0))
        count = int(_asked(driver.cuDeviceGetCount()))
    except (ModelError, RuntimeError):
        return []
    return [f"cuda:{index}" for index in range(count)]


class Gpu:
    """A GPU that is in use.

    Attributes:
        device: ``"cuda:0"``.
        name: What its maker calls it.
    """

    def __init__(self, wanted: str | None) -> None:
        """Take the GPU that is meant.

        Args:
            wanted: What was typed as ``device=``; None: the first.

        Raises:
            UsageError: It is not there, or none is.
        """
        there = devices()
        if not there:
            asked = f"device={wanted}: " if wanted else ""
            raise UsageError(f"{asked}TensorRT needs a GPU of NVIDIA's, and CUDA finds none", hint=_NOTHING_HERE)
        self.device = choose_device(wanted, there)
        self._handle = _asked(driver.cuDeviceGet(there.index(self.device)))
        self.name: str = (
            _asked(driver.cuDeviceGetName(_LONGEST_NAME, self._handle)).decode(errors="replace").rstrip("\0")
        )
        self._context = _asked(driver.cuDevicePrimaryCtxRetain(self._handle))  # the one that TensorRT works in, too

    def activate(self) -> None:
        """Make it the GPU of the thread that calls."""
        _asked(driver.cuCtxSetCurrent(self._context))

    def release(self) -> None:
        """Give it back."""
        _asked(driver.cuDevicePrimaryCtxRelease(self._handle))


class Buffer:
    """Memory of the GPU, which grows with what is put in."""

    def __init__(self) -> None:
        self.address = 0
        self._size = 0

    def reserve(self, size: int) -> int:
        """Return where there are this many bytes."""
        if size > self._size:
            self.free()
            self.address = int(_asked(driver.cuMemAlloc(size)))
            self._size = size
        return self.address

    def free(self) -> None:
        """Give the memory back."""
        if self._size:
            _asked(driver.cuMemFree(self.address))
        self.address = self._size = 0


class Stream:
    """Work of a GPU that is done in the order it is given."""

    def __init__(self) -> None:
        self._handle = _asked(driver.cuStreamCreate(int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    @property
    def address(self) -> int:
        """What TensorRT calls it."""
        return int(self._handle)

    def upload(self, array: Array, address: int) -> None:
        """Copy an array to the GPU; it must stay as it is until :meth:`wait` has returned."""
        _asked(driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self._handle))

    def download(self, address: int, array: Array) -> None:
        """Fill an array from the GPU, by the time that :meth:`wait` returns."""
        _asked(driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, self._handle))

    def wait(self) -> None:
        """Return when all is done."""
        _asked(driver.cuStreamSynchronize(self._handle))

    def destroy(self) -> None:
        """End it."""
        _asked(driver.cuStreamDestroy(self._handle))


def _asked(answer: tuple[Any, ...]) -> Any:
    """Return what the driver answered.

    Raises:
        ModelError: It answered with an error.
    """
    error, *values = answer
    if int(error) != 0:
        name = getattr(error, "name", str(error)).removeprefix("CUDA_ERROR_").replace("_", " ").lower()
        hint = "a smaller batch or imgsz, or other programs off the GPU" if "memory" in name else "nvidia-smi shows it"
        raise ModelError(f"CUDA: {name}", hint=hint)
    return values[0] if values else None
