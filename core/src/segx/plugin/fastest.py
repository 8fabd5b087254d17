"""Which runtime runs a model file fastest on this machine, as ``segx benchmark`` proved and measured it.

A record is one small file in the cache folder, named by the size and the hash of the model's content: a model is read
for its hash only where there is a record of one of its size. It holds for the processor, the versions and the device
it was made with. Whatever is chosen by it finds the same objects within the tolerances of an export in full precision.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from segx.errors import SegxError
from segx.io.files import write_text
from segx.io.paths import cache_folder
from segx.plugin.requirements import installed
from segx.records import Record
from segx.runtime import cores, nvidia

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from segx.artifact import Artifact
    from segx.plugin.registry import Registry
    from segx.plugin.specs import BackendSpec

logger = logging.getLogger(__name__)

LAYOUT = 1
"""Of a record; another is not read."""
GAIN = 1.05
"""So many times the images a second of the usual runtime are worth another one: less is between two runs of one."""
_LONGEST = 1 << 20


class Timing(Record):
    """What one runtime makes of a model file.

    Attributes:
        backend: Its name.
        latency: Median milliseconds of one image, from pixels to results; 0: it could not be run.
        throughput: Images a second of predict, from files to results.
        cold: Seconds of a first prediction in a new process; None: not measured.
        problem: Why it may not take the place of the usual one; empty: it finds the same.
        said: How close it is to the usual one, in words.
    """

    backend: str
    latency: float = 0.0
    throughput: float = 0.0
    cold: float | None = None
    problem: str = ""
    said: str = ""


class Choice(Record):
    """The runtimes of a model file.

    Attributes:
        timings: What was measured; the usual one first.
        device: The device that was asked for; None: whichever each runtime takes.
        machine: Processor and cores.
        versions: Of each runtime, what it is made of with versions.
    """

    timings: tuple[Timing, ...]
    device: str | None
    machine: str
    versions: Mapping[str, str]

    @property
    def usual(self) -> Timing:
        """The one that is taken where nothing was measured."""
        return self.timings[0]

    @property
    def fastest(self) -> Timing:
        """The one to take: of those that find the same and let no image wait longer, the one with the most a second."""
        usual = self.usual
        better = [
            timing
            for timing in self.timings[1:]
            if not timing.problem and timing.throughput >= GAIN * usual.throughput and timing.latency <= usual.latency
        ]
        return max(better, key=lambda timing: timing.throughput, default=usual)

    def brief(self) -> str:
        """Return which is taken, and how to have the usual one, in a few words."""
        best, usual = self.fastest, self.usual
        figures = f"{best.throughput:.1f} images/s, {usual.backend} {usual.throughput:.1f}"
        return (
            f"backend {best.backend}, as segx benchmark measured ({figures}); backend={usual.backend} is the usual one"
        )

    def describe(self) -> str:
        """Return which to take and why, in one line."""
        best, usual = self.fastest, self.usual
        others = "; ".join(_against(timing, usual) for timing in self.timings[1:] if timing is not best)
        if best is usual:
            return f"backend {usual.backend} ({_figures(usual)}) is the one to take; {others}"
        others = f"; {others}" if others else ""
        return f"backend {best.backend} ({_figures(best)}, {usual.backend} {_figures(usual)}): {best.said}{others}"


def _figures(timing: Timing) -> str:
    cold = "" if timing.cold is None else f", first result after {timing.cold:.1f} s"
    return f"{timing.throughput:.1f} images/s, {timing.latency:.0f} ms{cold}"


def _against(timing: Timing, usual: Timing) -> str:
    if timing.problem:
        return f"{timing.backend} is left out: {timing.problem}"
    gains = [timing.latency <= usual.latency, timing.throughput >= GAIN * usual.throughput]
    said = "" if all(gains) else " is faster in one of the two only" if any(gains) else " is no faster"
    return f"{timing.backend} ({_figures(timing)}){said}"


def backends_on_cpu(kind: str, registry: Registry) -> tuple[BackendSpec, ...]:
    """Return the backends that run a format on a CPU here, the usual one first."""
    return tuple(spec for spec in registry.backends_for(kind).usable if "cpu" in spec.devices)


def choice_of(timings: Sequence[Timing], device: str | None, registry: Registry) -> Choice:
    """Return what was measured, with the machine and the versions that it holds for.

    Where there is nothing but a CPU, one that was asked for is the one that is taken anyway.
    """
    if device == "cpu" and sys.platform != "darwin" and nvidia.problem():
        device = None
    versions = {timing.backend: _versions(registry.backends.get(timing.backend), registry) for timing in timings}
    return Choice(timings=tuple(timings), device=device, machine=_machine(), versions=versions)


def keep(artifact: Artifact, choice: Choice) -> Path | None:
    """Keep what was measured of a model; a cache that cannot be written is logged, and no reason to stop."""
    document = {
        "layout": LAYOUT,
        "device": choice.device,
        "machine": choice.machine,
        "versions": dict(choice.versions),
        "timings": [vars(timing) for timing in choice.timings],
    }
    try:
        path = _folder() / f"{artifact.size}-{_digest(artifact)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_text(path, json.dumps(document, indent=2))
    except (OSError, SegxError) as error:
        logger.warning("which runtime is fastest cannot be kept: %s", error)
        return None


def measured(artifact: Artifact, registry: Registry, *, device: str | None = None) -> Choice | None:
    """Return what was measured of a model, where it still holds; None where it was not, or something has changed.

    Args:
        artifact: The model.
        registry: The plugins.
        device: Where it is to run.
    """
    if device not in {None, "cpu"}:
        return None
    try:
        if not (near := list(_folder().glob(f"{artifact.size}-*.json"))):
            return None
        digest = _digest(artifact)
        path = next((path for path in near if path.stem.endswith(f"-{digest}")), None)
        choice = None if path is None else _read(path)
    except (OSError, SegxError):
        return None
    if choice is None or choice.device not in {None, device} or choice.machine != _machine():
        return None
    specs = backends_on_cpu(artifact.format, registry)
    now = {spec.name: _versions(spec, registry) for spec in specs}
    taken = {choice.usual.backend, choice.fastest.backend}
    same = (
        bool(specs)
        and specs[0].name == choice.usual.backend
        and all(now.get(name) == choice.versions.get(name) for name in taken)
    )
    return choice if same else None


def _read(path: Path) -> Choice | None:
    """Return a record, or None for what is none."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LONGEST))
        if document["layout"] != LAYOUT:
            return None
        timings = tuple(_timing(item) for item in document["timings"])
        versions = {str(name): str(version) for name, version in document["versions"].items()}
        device = document["device"]
        if not timings or not (device is None or isinstance(device, str)):
            return None
        return Choice(timings=timings, device=device, machine=str(document["machine"]), versions=versions)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.debug("%s is damaged and not used (%s)", path, error)
        return None


def _timing(item: Mapping[str, Any]) -> Timing:
    return Timing(
        backend=str(item["backend"]),
        latency=float(item["latency"]),
        throughput=float(item["throughput"]),
        cold=None if item["cold"] is None else float(item["cold"]),
        problem=str(item["problem"]),
        said=str(item["said"]),
    )


def _folder() -> Path:
    return cache_folder() / "backends"


def _digest(artifact: Artifact) -> str:
    """Return the hash of a model's content: of its file, or of names and contents of all files in its folder."""
    from segx.io.index_cache import (
        file_digest,
        key_of,
    )  # with zipfile and hashlib, which a first prediction does without

    if not artifact.path.is_dir():
        return file_digest(artifact.path)
    files = sorted(item for item in artifact.path.rglob("*") if item.is_file())
    return key_of(*(part for file in files for part in (str(file.relative_to(artifact.path)), file_digest(file))))


def _versions(spec: BackendSpec, registry: Registry) -> str:
    provider = next((plugin.version for plugin in registry.plugins if plugin.distribution == spec.provider), "")
    return ", ".join([f"{spec.provider} {provider}", *installed(spec.requires)])


def _machine() -> str:
    import platform

    return f"{platform.system()} {platform.machine()} {next(_processor(), '')}, {cores()} cores"


def _processor() -> Iterator[str]:
    """Yield the name of the processor, where the system tells it without a program of its own."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace", buffering=4096) as file:  # noqa: PTH123 - not a file to look for
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in {"model name", "Model", "CPU part"}:
                    yield value.strip()
                    return
    except OSError:
        import platform

        yield os.environ.get("PROCESSOR_IDENTIFIER") or platform.processor()
