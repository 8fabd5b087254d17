"""A TorchScript model, open: it takes the shapes it was traced for, or any where its axes are open."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import torch

from segx.errors import ModelError, UsageError
from segx.plugin.base import FormatSession
from segx.runtime.pytorch import inference, resolve_device, to_device, to_numpy

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Images


class TorchScriptSession(FormatSession[Any]):
    """A TorchScript model that is ready to run."""

    runtime = "torch"

    def __init__(
        self, module: Any, *, path: Path, info: ArtifactInfo, device: torch.device, threads: int | None
    ) -> None:
        super().__init__(module, path=path, info=info, device=str(device))
        self.channels_last = device.type == "cpu"  # which is done in five sixths of the time then
        self._device = device
        self._dtype = torch.float16 if info.precision == "fp16" else torch.float32
        self._threads = threads

    def _run(self, model: Any, images: Images) -> tuple[NDArray[np.float32], ...]:
        with inference(self._device, self._threads):
            tensor = to_device(images, self._device, self._dtype)
            if self.channels_last:
                try:
                    return to_numpy(model(tensor.contiguous(memory_format=torch.channels_last)))
                except RuntimeError as error:  # code that takes it for granted how numbers lie, as ``view`` does
                    if "view size is not compatible" not in str(error):
                        raise
                    self.channels_last = False
            return to_numpy(model(tensor.contiguous()))


def open_session(path: Path, info: ArtifactInfo, options: SessionOptions) -> TorchScriptSession:
    """Return a session of a TorchScript file.

    Raises:
        UsageError: The device is not there, or does not run the precision the file has.
    """
    device = resolve_device(options.device)
    if info.precision == "fp16" and device.type == "cpu":
        msg = f"{path} holds half-precision numbers, which torch runs on a GPU only in reasonable time"
        raise UsageError(msg, hint="give device=cuda, or export it again without half")
    try:
        module = _load(path, device)
    except RuntimeError as error:  # files of other tools that suppress use torchvision's operator for it
        if "torchvision::" not in str(error):
            raise
        _know_torchvision(path)
        module = _load(path, device)
    return TorchScriptSession(module, path=path, info=info, device=device, threads=options.threads)


def _load(path: Path, device: torch.device) -> Any:
    with path.open("rb") as file, warnings.catch_warnings():
        # torch says that the format has a successor; whoever has such a file wants it run.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
        return torch.jit.load(file, map_location=device).eval()  # type: ignore[no-untyped-call]


def _know_torchvision(path: Path) -> None:
    try:
        importlib.import_module("torchvision")  # which makes its operators known to torch
    except (ImportError, RuntimeError, OSError) as error:
        msg = f"{path}: uses an operator of torchvision, which is not installed, or not for this torch"
        raise ModelError(msg, hint="pip install torchvision, or export it again with nms=False") from error
