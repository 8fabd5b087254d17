"""Builds an engine of an ONNX graph. It runs in an interpreter of its own: building takes gigabytes, and may crash.

Written for TensorRT 10 and 11, and for TensorRT for RTX, which has the same interface. The network is strongly typed:
each layer computes in the type that the graph gives it, so that what was proven of the graph holds for the engine.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from segx.errors import ExportError, UsageError
from segx.io.files import write_bytes
from segx.runtime import child

_GIB = 1 << 30
_LONGEST_NAME = 256
_MAX_ERRORS = 3
"""Errors of TensorRT that are reported in one line; the rest says the same again."""
_MAX_CACHE = 1 << 28
"""Bytes of a timing cache that is still read; usual ones have some hundred thousand."""


def build(
    source: str,
    target: str,
    *,
    library: str,
    profile: dict[str, list[int]],
    workspace: float | None,
    cache: str,
    quantised: bool = False,
) -> dict[str, str]:
    """Write an engine and return what it is bound to: ``{"version": TensorRT's, "gpu": its name or ""}``.

    Args:
        source: The ONNX file.
        target: The engine to write.
        library: The module that builds it.
        profile: Shapes (N, 3, H, W): ``"min"``, ``"opt"`` and ``"max"``.
        workspace: GiB of GPU memory for scratch; None: what the GPU has.
        cache: Folder of timing caches, which is made where there is none.
        quantised: The graph holds numbers of 8 bits.

    Raises:
        ExportError: TensorRT does not take the graph, or finds no way to compute a part of it.
        UsageError: TensorRT does not start on this machine.
    """
    trt = _imported(library)
    logger = _logger(trt)
    builder = _builder(trt, logger)
    network = _network(trt, builder, logger, _graph(source, quantised=quantised))
    config = builder.create_builder_config()
    _configure(trt, config, workspace)
    _set_profile(builder, network, config, profile)
    config.progress_monitor = _monitor(trt)
    timings = Path(cache) / f"{library}-{trt.__version__}.timings"
    known = _use_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"TensorRT {trt.__version__} cannot build an engine of it ({logger.summary()})", hint=_hint(logger)
        )
    _keep_timings(config, timings, known)
    write_bytes(Path(target), bytes(plan))
    return {"version": str(trt.__version__), "gpu": gpu_name()}


def gpu_name() -> str:
    """Return what the first GPU is called; empty where there is none, or nothing that asks it."""
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - where it cannot be loaded, no name is known

        driver.cuInit(0)
        error, name = driver.cuDeviceGetName(_LONGEST_NAME, 0)
    except (ImportError, RuntimeError):  # the second: there is no driver
        return ""
    return name.decode(errors="replace").rstrip("\0") if int(error) == 0 else ""


def _imported(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:
        msg = f"{library} is installed but cannot be loaded ({error})"
        raise UsageError(msg, hint="reinstall it: pip install --force-reinstall tensorrt") from error


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of a module that need not be installed
        """Prints what TensorRT says, which the parent keeps, and remembers its errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                self.errors.append(" ".join(text.split()))
            if severity != trt.ILogger.VERBOSE:
                print(text, flush=True)  # noqa: T201 - into the child's file of what it said

        def summary(self) -> str:
            return "; ".join(dict.fromkeys(self.errors[-_MAX_ERRORS:])) or "it does not say why"

    return Logger()


def _builder(trt: Any, logger: Any) -> Any:
    """Return a builder.

    Raises:
        UsageError: There is none to be had: no GPU, or a driver that is too old.
    """
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # "pybind11::init(): factory function returned nullptr"
        msg = f"TensorRT {trt.__version__} does not start on this machine ({logger.summary()})"
        hint = "nvidia-smi shows GPU and driver; tensorrt-cu12 is for drivers of CUDA 12, tensorrt-cu13 for those of 13"
        raise UsageError(msg, hint=hint) from error


def _graph(source: str, *, quantised: bool) -> bytes:
    content = Path(source).read_bytes()
    if not quantised:
        return content
    from segx_export_tensorrt.graph import with_float_biases  # noqa: PLC0415 - brings onnx, which few builds need

    return with_float_biases(content)


def _network(trt: Any, builder: Any, logger: Any, content: bytes) -> Any:
    """Return the graph as TensorRT understands it.

    Raises:
        ExportError: It does not.
    """
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # later the only kind there is
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = [_about(parser.get_error(index)) for index in range(min(parser.num_errors, _MAX_ERRORS))]
        said = "; ".join(errors) or logger.summary()
        msg = f"TensorRT {trt.__version__} does not take this graph ({said})"
        raise ExportError(msg, hint="a newer TensorRT may; or a lower opset=")
    if network.num_inputs != 1:
        raise ExportError(f"the graph has {network.num_inputs} inputs; segx runs models with one")
    return network


def _about(error: Any) -> str:
    """Return what the parser says of a node, and which one it is."""
    text = " ".join(error.desc().split())
    operator, name = error.node_operator(), error.node_name()
    return f"operator {operator} of node {name}: {text}" if operator else text


def _configure(trt: Any, config: Any, workspace: float | None) -> None:
    """Set what is built: numbers of 32 bits are that, and not the 19 of TF32."""
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace * _GIB))


def _set_profile(builder: Any, network: Any, config: Any, profile: dict[str, list[int]]) -> None:
    """Say how long the axes are that are open; a graph with none needs no profile.

    Raises:
        ExportError: The graph has fixed an axis to another length.
    """
    source = network.get_input(0)
    for word, shape in profile.items():
        wrong = [own for own, length in zip(source.shape, shape, strict=True) if own not in {-1, length}]
        if wrong:
            raise ExportError(f"the graph takes {_lengths(source.shape)}, and was to take {_lengths(shape)} ({word})")
    if -1 not in tuple(source.shape):
        return
    bounds = builder.create_optimization_profile()
    bounds.set_shape(source.name, profile["min"], profile["opt"], profile["max"])
    if config.add_optimization_profile(bounds) < 0:
        raise ExportError(f"TensorRT does not take the bounds {_lengths(profile['min'])} to {_lengths(profile['max'])}")


def _lengths(shape: Any) -> str:
    return "x".join("?" if length < 0 else str(length) for length in shape)


def _use_timings(config: Any, file: Path) -> bytes:
    """Start from what earlier builds have measured, and return it; of another GPU or version TensorRT takes nothing."""
    known = b""
    if file.is_file() and file.stat().st_size <= _MAX_CACHE:
        known = file.read_bytes()
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return content
    return b""


def _keep_timings(config: Any, file: Path, known: bytes) -> None:
    """Keep what was measured for the next build; that it cannot be kept hinders nobody."""
    cache = config.get_timing_cache()
    content = b"" if cache is None else bytes(cache.serialize())
    if not content or content == known:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content)
    except OSError as error:
        print(f"timings are not kept: {error}", flush=True)  # noqa: T201 - as above


def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of a module that need not be installed
        """Tells how far the outermost phase is."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                child.notify("building", step, self.steps[phase_name])
            return True  # go on

    return Monitor()


def _hint(logger: Any) -> str:
    if re.search(r"memory|workspace", logger.summary(), re.IGNORECASE):
        return "workspace= gives building more memory, or less is to be built: a smaller imgsz, max_imgsz or max_batch"
    return "what TensorRT said is above with --verbose; a newer TensorRT may build it"
