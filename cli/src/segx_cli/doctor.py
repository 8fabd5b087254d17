"""``segx doctor``: is this installation in order, and if not, what to type."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segx.errors import PluginError, SegxError
from segx.io.paths import matplotlib_folder
from segx.plugin.discovery import DISABLE
from segx.plugin.specs import ExporterSpec
from segx.runtime import child
from segx.runtime.leftovers import scratch
from segx_cli.output import OPENCV_BUILDS, opencv_hint, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.plugin.registry import Registry
    from segx.plugin.specs import Spec
    from segx_cli.commands import Call
    from segx_cli.output import Output

_TIMEOUT = 120.0
"""Seconds a plugin may take to load."""
_HOMES = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
"""Where libraries make folders of their own when they are imported: Keras, Matplotlib."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        subject: What.
        state: ``"ok"``, ``"note"`` (worth knowing, nothing is wrong) or ``"wrong"``.
        message: What was found, and what to type if it is wrong.
    """

    subject: str
    state: Literal["ok", "note", "wrong"]
    message: str


def run(call: Call, output: Output) -> int:
    """Check this installation; the exit code is 1 when something is wrong.

    Plugins and runtimes are loaded in processes of their own, so that one that crashes is only reported.
    """
    del call
    checks = list(examine())
    rows = [(check.subject, check.state, check.message) for check in checks]
    wrong = sum(check.state == "wrong" for check in checks)
    verdict = f"{wrong} of {len(checks)} checks found something wrong" if wrong else "all is in order"
    document = {"ok": not wrong, "checks": [asdict(check) for check in checks]}
    output.result(f"{table(('what', 'state', 'found'), rows)}\n\n{verdict}", document)
    return 1 if wrong else 0


def examine() -> Iterator[Check]:
    """Yield all checks."""
    from segx.plugin.registry import get_registry

    registry = get_registry()
    yield from _machine()
    yield from _folders()
    yield from _plugins(registry)
    yield from _loads(registry)


def _machine() -> Iterator[Check]:
    import segx

    yield Check(subject="segx", state="ok", message=f"{segx.__version__} in {Path(segx.__file__).parent}")
    yield Check(subject="python", state="ok", message=f"{platform.python_version()} in {sys.prefix}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check(subject="platform", state="ok", message=f"{platform.platform()}, {cores} cores")
    found = {name: _version(name) for name in ("numpy", "torch", "onnx", "onnxruntime", "typer")}
    installed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Check(subject="packages", state="ok", message=installed)
    yield _opencv()
    if os.environ.get("PYTHONPATH"):
        yield Check(subject="PYTHONPATH", state="note", message=f"is set: {os.environ['PYTHONPATH']}")


def _opencv() -> Check:
    """Look which builds of OpenCV are installed, and whether what they share can be imported."""
    builds = [f"{build} {found}" for build in OPENCV_BUILDS if (found := _version(build))]
    ended = child.run(["-c", "import cv2"])
    if ended.code:
        last = (ended.stderr.strip().splitlines() or ["no words"])[-1]
        return Check(subject="OpenCV", state="wrong", message=f"{last}; {opencv_hint(last)}")
    if len(builds) > 1:
        message = f"{', '.join(builds)} share one folder: uninstall all, then install one again"
        return Check(subject="OpenCV", state="note", message=message)
    return Check(subject="OpenCV", state="ok", message=", ".join(builds) or "a build of your own")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, UnicodeDecodeError):
        return None


def _folders() -> Iterator[Check]:
    from segx.io.paths import CACHE_VARIABLE, MIRROR_VARIABLE, OFFLINE_VARIABLE, cache_folder, offline

    cache = cache_folder()
    problem = _unwritable(cache)
    fix = f"; set {CACHE_VARIABLE} to a folder that can be written"
    yield Check(
        subject="cache folder",
        state="wrong" if problem else "ok",
        message=f"{cache}{f': {problem}{fix}' if problem else ''}",
    )
    here = Path.cwd()
    problem = _unwritable(here)
    message = f"{here}: {problem}; give project=FOLDER for results" if problem else f"{here} can be written"
    yield Check(subject="run folder", state="note" if problem else "ok", message=message)
    if offline():
        yield Check(subject="network", state="note", message=f"{OFFLINE_VARIABLE} is set: nothing is downloaded")
    else:
        mirror = os.environ.get(MIRROR_VARIABLE)
        message = f"used only to download known names{f', from {mirror}' if mirror else ''}"
        yield Check(subject="network", state="ok", message=message)


def _unwritable(folder: Path) -> str:
    """Return why a file cannot be made in a folder, or in the nearest one above it that is there."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        return f"{place} is a file"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place} cannot be written ({error.strerror})"


def _plugins(registry: Registry) -> Iterator[Check]:
    count = len(registry.plugins)
    yield Check(
        subject="plugins",
        state="ok" if count else "wrong",
        message=f"{count} found" if count else "none found: pip install segx",
    )
    for item in registry.broken:
        yield Check(subject=item.distribution, state="wrong", message=f"broken: {item.reason}")
    for absent in registry.disabled:
        yield Check(subject=absent.distribution, state="note", message="left out by SEGX_DISABLE_PLUGINS")


def _loads(registry: Registry) -> Iterator[Check]:
    """Load each usable declaration in a process of its own; list those that cannot be used with the reason."""
    specs = [(kind, spec) for kind, declared in registry.declared.items() if kind != "command" for spec in declared]
    usable = [(kind, spec) for kind, spec in specs if registry.unavailable(spec) is None]
    # The processes need not wait for what is known to be broken: it may hang.
    broken = ",".join(item.distribution for item in registry.broken)
    environment = {DISABLE: ",".join(filter(None, (os.environ.get(DISABLE), broken)))}
    stop = threading.Event()
    with scratch() as home, ThreadPoolExecutor(2) as pool:
        environment |= dict.fromkeys(_HOMES, str(home))  # what is only looked at leaves nothing in the user's own
        try:
            yield from pool.map(lambda item: _load(item[0], item[1], environment, stop), usable)
        except BaseException:  # the processes hear nothing of Ctrl-C
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for kind, spec in specs:
        if problem := registry.unavailable(spec):
            yield Check(subject=_subject(kind, spec), state="note", message=problem.message)
        elif isinstance(spec, ExporterSpec):
            for precision in spec.requires_for:
                if problem := registry.unavailable(spec, precision=precision):
                    yield Check(subject=f"{_subject(kind, spec)} {precision}", state="note", message=problem.message)


def _load(
    kind: str, spec: Spec, environment: Mapping[str, str] | None = None, stop: threading.Event | None = None
) -> Check:
    subject = _subject(kind, spec)
    # What is required may import matplotlib, which writes a list of the fonts it finds.
    environment = {**(environment or {}), "MPLCONFIGDIR": str(matplotlib_folder())}
    try:
        found = child.call(
            "segx_cli.probe:load",
            {"kind": kind, "name": spec.name, "provider": spec.provider},
            what="loading",
            timeout=_TIMEOUT,
            environment=environment,
            stop=stop,
            error=PluginError,
        )
    except SegxError as error:
        last = (error.hint.strip().splitlines() or [""])[-1].strip()
        more = f": {last}" if last and last not in error.message else ""
        return Check(subject=subject, state="wrong", message=f"{error.message}{more}")
    devices = f", devices: {', '.join(found['devices'])}" if found["devices"] else ""
    return Check(subject=subject, state="ok", message=f"loads in {found['seconds']:.1f} s{devices}")


def _subject(kind: str, spec: Spec) -> str:
    word = {"exporter": "export to", "dataset_format": "data format"}.get(kind, kind)
    return f"{word} {spec.name}"
