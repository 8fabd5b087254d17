"""Runs an ONNX model: what ONNX Runtime is told, and what it is fed."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import numpy as np

from segx.errors import UsageError
from segx.plugin.base import FormatSession
from segx.runtime import cores, variables
from segx_backend_onnxruntime.providers import Device, choose_device

with variables(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported; else it writes into the home folder and reports
    import onnxruntime

if TYPE_CHECKING:
    from pathlib import Path

    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

logger = logging.getLogger(__name__)

_ERRORS_ONLY = 3


class OnnxRuntimeSession(FormatSession[onnxruntime.InferenceSession]):
    """An ONNX model that is ready to run."""

    runtime = "ONNX Runtime"

    def _run(self, model: onnxruntime.InferenceSession, images: Images) -> list[Array]:
        (source,) = model.get_inputs()
        feed = images.astype(np.float16) if source.type == "tensor(float16)" else images
        outputs: list[Array] = model.run(list(self.info.outputs), {source.name: feed})
        return outputs


def available_providers() -> list[str]:
    """Return the names of what the installed ONNX Runtime can run on."""
    found: list[str] = onnxruntime.get_available_providers()
    return found


def start(path: Path, options: SessionOptions) -> tuple[onnxruntime.InferenceSession, str]:
    """Return ONNX Runtime's session for a file, and the name of the device it really runs on.

    Raises:
        UsageError: The device is not there.
    """
    device = choose_device(options.device, available_providers())
    session = onnxruntime.InferenceSession(str(path), sess_options=_settings(options), providers=device.chain)
    session.disable_fallback()
    if session.get_providers()[0] != device.provider:
        device = _fallback(device, wanted=options.device)
    return session, device.name


def _settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    """Return the runtime's own options.

    Idle threads sleep instead of spinning: reading, decoding and masks run beside the network, and threads that spin
    between operators take the cores from them.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    restricted = cores() if cores() < (os.cpu_count() or 1) else 0  # 0: the runtime counts the machine's
    settings.intra_op_num_threads = options.threads or restricted
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return settings


def _fallback(device: Device, *, wanted: str | None) -> Device:
    """Return the CPU when nobody asked for the device whose libraries failed to load; else tell."""
    if wanted is not None:
        msg = f"device={wanted}: {device.provider} is installed but did not start"
        raise UsageError(msg, hint="its libraries (CUDA, cuDNN) are missing or of another version; or device=cpu")
    logger.warning("%s is installed but did not start: running on the CPU", device.provider)
    return Device(name="cpu", provider="CPUExecutionProvider")
