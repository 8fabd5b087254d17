"""A TorchScript model, open: it takes the shapes it was traced for, or any where its axes are open."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from segx.errors import ModelError, UsageError
from segx.runtime import choose_device, forked_from_a_user_of, guard_forks
from segx_backend_torchscript.archive import read_info

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Images

guard_forks("torch", lambda: torch.set_num_threads(1))


class TorchScriptSession:
    """An open model: :class:`segx.plugin.interfaces.Session`.

    Attributes:
        info: What is known of the model.
        device: Where it runs.
    """

    def __init__(self, module: Any, info: ArtifactInfo, device: torch.device, threads: int | None) -> None:
        self.info = info
        self.device = str(device)
        self._module = module
        self._device = device
        self._dtype = torch.float16 if info.precision == "fp16" else torch.float32
        self._threads = threads

    def run(self, images: Images) -> tuple[NDArray[np.float32], ...]:
        """Return the raw outputs, in float32, for float32 (N, 3, H, W) images in 0..1, RGB.

        Raises:
            ModelError: The shape is not one the model was made for, or the model gives other outputs than it says.
        """
        self._check(images.shape)
        array = np.ascontiguousarray(images, dtype=np.float32)
        batch = torch.from_numpy(array if array.flags.writeable else array.copy())
        with torch.inference_mode(), _threads(self._threads, self._device):
            outputs = tuple(_tensors(self._module(batch.to(self._device, self._dtype))))
            arrays = tuple(output.float().cpu().numpy() for output in outputs)
        if len(arrays) != len(self.info.outputs):
            raise ModelError(f"the model gave {len(arrays)} outputs; its metadata name {', '.join(self.info.outputs)}")
        return arrays

    def close(self) -> None:
        """Free the model."""
        self._module = None

    def _check(self, shape: tuple[int, ...]) -> None:
        info = self.info
        wanted = (info.batch, 3, *info.imgsz)
        open_axes = {axis for axis, name in ((0, "batch"), (2, "height"), (3, "width")) if name in info.dynamic}
        fits = len(shape) == 4 and all(
            length > 0 and (axis in open_axes or length == wanted[axis]) for axis, length in enumerate(shape)
        )
        aligned = fits and not shape[2] % info.stride and not shape[3] % info.stride
        if not aligned:
            takes = ", ".join("any" if axis in open_axes else str(length) for axis, length in enumerate(wanted))
            sides = f", sides multiples of {info.stride}" if open_axes & {2, 3} else ""
            raise ModelError(f"images of shape {tuple(shape)}; the model takes ({takes}){sides}")


def open_session(artifact: Artifact, options: SessionOptions) -> TorchScriptSession:
    """Return a session of a TorchScript file.

    Raises:
        ModelError: The file is missing, damaged or no TorchScript model.
        UsageError: The device is not there, or does not run the precision the file has.
    """
    info = artifact.once(read_info)
    device = torch.device(choose_device(options.device, _available(), why_no_gpu="torch finds no GPU"))
    if options.half and info.precision != "fp16":
        msg = f"half=true: {artifact.path} holds {info.precision} numbers, and TorchScript runs what it holds"
        raise UsageError(msg, hint="export it again on a GPU: segx export model=... format=torchscript half=true")
    if info.precision == "fp16" and device.type == "cpu":
        msg = f"{artifact.path} holds half-precision numbers, which torch runs on a GPU only in reasonable time"
        raise UsageError(msg, hint="give device=cuda, or export it again without half")
    return TorchScriptSession(_load(artifact.path, device), info, device, options.threads)


def _load(path: Path, device: torch.device) -> Any:
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # torch says that the format has a successor; whoever has such a file wants it run.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
            return torch.jit.load(file, map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: torch cannot load it ({reason})", hint="export it again with this torch") from error


def _available() -> tuple[str, ...]:
    cuda = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of a model's answer in order, however they are nested."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, list | tuple):
        for item in outputs:
            yield from _tensors(item)
    else:
        raise ModelError(f"the model gave a {type(outputs).__name__} instead of tensors")


@contextlib.contextmanager
def _threads(count: int | None, device: torch.device) -> Iterator[None]:
    """Run with so many CPU threads; torch's setting is the process's, so it is put back.

    Raises:
        UsageError: The model is on a GPU that only the process this one was forked from can use.
    """
    before = torch.get_num_threads()
    if forked_from_a_user_of("torch"):
        if device.type != "cpu":
            msg = f"this process was forked after torch had been used, and cannot use {device}"
            raise UsageError(msg, hint='start processes with multiprocessing.get_context("spawn")')
        # OpenMP's threads stayed behind in the other process; it would wait for them for ever.
        count = 1
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
