"""Runs an ONNX model: what ONNX Runtime is told, what it is fed, and what its errors mean."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError, UsageError
from segx.runtime import variables
from segx_backend_onnxruntime.modelproto import FLOAT16, FLOAT32, ValueHeader
from segx_backend_onnxruntime.providers import Device, choose_device

with variables(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported; else it writes into the home folder and reports
    import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

logger = logging.getLogger(__name__)

SPINNING_VARIABLE = "SEGX_ORT_SPINNING"
"""Set to 1 to let idle threads spin between operators."""

_ELEMENTS: Mapping[int, type[np.floating[Any]]] = {FLOAT32: np.float32, FLOAT16: np.float16}
_ERRORS_ONLY = 3


class OnnxRuntimeSession:
    """An ONNX model that is ready to run.

    Attributes:
        info: What is known of the model.
        device: Where it runs.
    """

    def __init__(
        self,
        *,
        session: onnxruntime.InferenceSession,
        info: ArtifactInfo,
        device: str,
        source: ValueHeader,
        path: Path,
    ) -> None:
        self.info = info
        self.device = device
        self._session: onnxruntime.InferenceSession | None = session
        self._source = source
        self._path = path

    def run(self, images: Images) -> tuple[Array, ...]:
        """Return the raw outputs, float32, for float32 (N, 3, H, W) images in 0..1, RGB.

        Raises:
            ModelError: The shape is not one the model takes, the session is closed, or the runtime fails.
        """
        if self._session is None:
            raise ModelError(f"{self._path}: the session is closed", hint="open the model again")
        self._check_shape(images.shape)
        feed = np.ascontiguousarray(images, dtype=_ELEMENTS[self._source.element_type])
        try:
            outputs = self._session.run(list(self.info.outputs), {self._source.name: feed})
        except Exception as error:  # ONNX Runtime's errors share no class but this one
            raise ModelError(f"{self._path}: ONNX Runtime failed ({_first_line(error)})") from error
        # What is no array of numbers, such as sequences and texts, is core's to refuse.
        return tuple(_widened(output) for output in outputs)

    def close(self) -> None:
        """Free what the runtime holds."""
        self._session = None

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        expected = self._source.shape
        fits = len(shape) == len(expected) and all(
            isinstance(length, str) or length == given for length, given in zip(expected, shape, strict=True)
        )
        if not fits:
            takes = "x".join(str(length or "?") for length in expected)
            msg = f"{self._path}: takes images {takes}, got {'x'.join(map(str, shape))}"
            raise ModelError(msg, hint=f"imgsz={self.info.imgsz[0]},{self.info.imgsz[1]} batch={self.info.batch}")
        stride = self.info.stride
        if shape[2] % stride or shape[3] % stride:
            msg = f"{self._path}: sides must be multiples of {stride}, got {shape[2]}x{shape[3]}"
            raise ModelError(msg, hint=f"round imgsz up to a multiple of {stride}")


def _widened(output: Any) -> Any:
    floats = isinstance(output, np.ndarray) and output.dtype.kind == "f"
    return np.asarray(output, dtype=np.float32) if floats else output


def available_providers() -> list[str]:
    """Return the names of what the installed ONNX Runtime can run on."""
    found: list[str] = onnxruntime.get_available_providers()
    return found


def start(path: Path, options: SessionOptions) -> tuple[onnxruntime.InferenceSession, str]:
    """Return ONNX Runtime's session for a file, and the name of the device it really runs on.

    Raises:
        ModelError: The file is damaged or uses what this ONNX Runtime does not know.
        UsageError: The device is not there.
    """
    device = choose_device(options.device, available_providers())
    try:
        session = onnxruntime.InferenceSession(str(path), sess_options=_settings(options), providers=device.chain)
    except Exception as error:  # ONNX Runtime's errors share no class but this one
        msg = f"{path}: ONNX Runtime {onnxruntime.__version__} cannot open it ({_first_line(error)})"
        raise ModelError(msg, hint="copy or export it again; a lower opset if the runtime is too old for it") from error
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
    settings.intra_op_num_threads = options.threads or _restricted_cores()
    spinning = os.environ.get(SPINNING_VARIABLE, "0").strip() == "1"
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return settings


def _restricted_cores() -> int:
    """Return the cores this process may use where that is fewer than there are, else 0: the runtime counts them."""
    if not hasattr(os, "sched_getaffinity"):
        return 0
    usable = len(os.sched_getaffinity(0))
    return usable if usable < (os.cpu_count() or usable) else 0


def _fallback(device: Device, *, wanted: str | None) -> Device:
    """Return the CPU when nobody asked for the device whose libraries failed to load; else tell."""
    if wanted is not None:
        msg = f"device={wanted}: {device.provider} is installed but did not start"
        raise UsageError(msg, hint="its libraries (CUDA, cuDNN) are missing or of another version; or device=cpu")
    logger.warning("%s is installed but did not start: running on the CPU", device.provider)
    return Device(name="cpu", provider="CPUExecutionProvider")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
