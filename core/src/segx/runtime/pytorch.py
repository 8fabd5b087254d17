"""PyTorch for every plugin that stands on it: its devices, its threads, and arrays to tensors and back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from segx.errors import UsageError
from segx.runtime import choose_device, forked_from_a_user_of, guard_forks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

guard_forks("torch", lambda: torch.set_num_threads(1))


def resolve_device(name: str | None) -> torch.device:
    """Return the device meant by ``cpu``, ``cuda``, ``0``, ``cuda:1``, ``mps``; for None, the best there is.

    Raises:
        UsageError: The name is not a device, or the device is not there; the hint lists those that are.
    """
    return torch.device(choose_device(name, available_devices(), why_no_gpu=_why_no_gpu()))


def available_devices() -> tuple[str, ...]:
    """Return the names of the devices of this machine, the best first."""
    cuda = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def _why_no_gpu() -> str:
    return f"torch {torch.__version__} is built without CUDA" if torch.version.cuda is None else "torch finds no GPU"


@contextlib.contextmanager
def inference(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """Run without gradients, with so many CPU threads; torch's setting is the process's, so it is put back.

    Raises:
        UsageError: The model is on a GPU that only the process this one was forked from can use.
    """
    before = torch.get_num_threads()
    if forked_from_a_user_of("torch"):
        if device.type != "cpu":
            msg = f"this process was forked after torch had been used, and cannot use {device}"
            raise UsageError(msg, hint='start processes with multiprocessing.get_context("spawn")')
        # OpenMP's threads stayed behind in the other process; it would wait for them for ever.
        threads = 1
    changed = threads is not None and threads != before
    try:
        if changed:
            torch.set_num_threads(threads or before)
        with torch.inference_mode():
            yield
    finally:
        if changed:
            torch.set_num_threads(before)


def to_device(
    images: NDArray[np.floating[Any]], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return float32 (N, 3, H, W) images as a tensor on a device; the array itself is never written to.

    Images whose channels lie side by side in memory stay so.
    """
    is_last = images.transpose(0, 2, 3, 1).flags.c_contiguous
    array = np.asarray(images, dtype=np.float32) if is_last else np.ascontiguousarray(images, dtype=np.float32)
    batch = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type == "cuda":
        return batch.pin_memory().to(device, dtype, non_blocking=True)
    return batch.to(device, dtype)


def to_numpy(outputs: Any) -> tuple[NDArray[np.float32], ...]:
    """Return a model's tensors in order, however they are nested, as float32 arrays on the CPU.

    What is on the CPU stays as it lies, its channels perhaps last. From a GPU all copies run before the one wait for
    them.

    Raises:
        TypeError: There is something else than tensors among them.
    """
    tensors = [output.float() for output in flat(outputs)]
    if not tensors or tensors[0].device.type != "cuda":
        return tuple(tensor.cpu().numpy() for tensor in tensors)
    tensors = [tensor.contiguous() for tensor in tensors]
    pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for target, tensor in zip(pinned, tensors, strict=True):
        target.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return tuple(target.numpy() for target in pinned)


def flat(outputs: Any) -> Sequence[torch.Tensor]:
    """Return a model's tensors in order, however they are nested.

    Raises:
        TypeError: There is something else than tensors among them.
    """
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, list | tuple):
        return [tensor for item in outputs for tensor in flat(item)]
    raise TypeError(f"a {type(outputs).__name__} instead of tensors")
