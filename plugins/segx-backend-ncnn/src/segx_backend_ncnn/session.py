"""Runs an ncnn model: what ncnn is told, and what it is fed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ncnn
import numpy as np

from segx import runtime
from segx.errors import ModelError, UsageError
from segx.plugin.base import FormatSession

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.structures.types import Array, Images
    from segx_backend_ncnn.layers import Layers


class NcnnSession(FormatSession[ncnn.Net]):
    """An ncnn model that is ready to run.

    ncnn knows no batch: images go through it one after the other.
    """

    runtime = "ncnn"

    def __init__(self, model: ncnn.Net, *, blobs: Layers, path: Path, info: ArtifactInfo, device: str) -> None:
        super().__init__(model, path=path, info=info, device=device)
        (self._input,) = blobs.inputs
        self._outputs = dict(zip(info.outputs, blobs.outputs, strict=True))

    def _run(self, model: ncnn.Net, images: Images) -> dict[str, Array]:
        rows = [self._run_one(model, image) for image in images]
        if len(rows) == 1:
            return {name: output[None] for name, output in rows[0].items()}
        return {name: np.stack([row[name] for row in rows]) for name in self._outputs}

    def _run_one(self, model: ncnn.Net, image: Array) -> dict[str, Array]:
        """Return the outputs for one float32 (3, H, W) image."""
        with model.create_extractor() as extractor:
            # A copy that is ncnn's own: a layer that works in place ends the process on memory that is not.
            extractor.input(self._input, ncnn.Mat(image).clone())
            outputs = {}
            for name, blob in self._outputs.items():
                failed, output = extractor.extract(blob)
                if failed or output.empty():
                    raise ModelError(f"{self.path}: ncnn failed at {blob} (code {failed})")
                outputs[name] = np.array(output)
        return outputs


def load(text: Path, weights: Path, *, device: str, precision: str, threads: int | None) -> ncnn.Net:
    """Return an open model.

    Args:
        text: The layers.
        weights: The weights.
        device: ``"cpu"``, ``"vulkan:0"``.
        precision: What the file is: only a 16-bit one is computed in 16 bits, where the device can.
        threads: Threads on the CPU; None: as many as there are cores.

    Raises:
        ModelError: ncnn does not know what is in it.
    """
    net = ncnn.Net()
    net.opt.num_threads = threads or runtime.cores()
    half = precision == "fp16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    kind, number = runtime.parse_device(device)
    net.opt.use_vulkan_compute = kind == "vulkan"
    if kind == "vulkan":
        net.set_vulkan_device(int(number))
    for what, failed in ((text, net.load_param(str(text))), (weights, net.load_model(str(weights)))):
        if failed:
            msg = f"{text.parent}: is damaged, or uses what ncnn {ncnn.__version__} has not ({what.name})"
            raise ModelError(msg, hint="copy or export it again, or pip install -U ncnn")
    return net


def choose_device(name: str | None) -> str:
    """Return the device meant; the CPU where none is named.

    Raises:
        UsageError: The device is not there.
    """
    if name is None or runtime.device_kind(name) != "vulkan":  # asking for GPUs loads a driver
        return runtime.choose_device(name, ("cpu",))
    available = devices()
    if available == ["cpu"]:
        msg = f"device={name} is not there: ncnn finds no Vulkan driver, or no GPU"
        raise UsageError(msg, hint="devices here: cpu; Vulkan comes with the GPU's driver (and libvulkan1 on Linux)")
    return runtime.choose_device(name, available)


def devices() -> list[str]:
    """Return the devices that ncnn can use on this machine."""
    count = ncnn.get_gpu_count() if hasattr(ncnn, "get_gpu_count") else 0  # builds without Vulkan have it not
    return ["cpu", *(f"vulkan:{index}" for index in range(count))]
