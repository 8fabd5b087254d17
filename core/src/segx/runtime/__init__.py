"""What this machine and process offer: devices, cores, which of several processes this is, and whose it is."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from segx.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


_taken = threading.Event()


def take_process() -> None:
    """Let segx tune this process as its own: environment variables, the allocator, warnings filters, signals.

    Without this call, what segx is asked to do in a program leaves all of these as they were. The command line makes
    it first of all; a script that only trains does well to: freed memory is kept for the next batch.
    """
    _taken.set()


def process_taken() -> bool:
    """Return True if :func:`take_process` has been called in this process."""
    return _taken.is_set()


@contextlib.contextmanager
def variables(**wanted: str) -> Iterator[None]:
    """Set environment variables that a library reads while it is imported or started; the user's own stand.

    At the end they are as before, unless the process is segx's own (:func:`take_process`).
    """
    ours = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in ours})
    try:
        yield
    finally:
        if not process_taken():
            for name in ours:
                os.environ.pop(name, None)


def parse_device(text: str) -> tuple[str, str]:
    """Return the kind of a device and its number as typed: ``"0"`` and ``"cuda:0"`` are ``("cuda", "0")``.

    Whether there is such a kind, or a device of that number, is for who knows the devices.
    """
    typed = text.strip().lower()
    if typed.replace(",", "").replace(" ", "").isdecimal():
        return "cuda", typed
    kind, number = re.fullmatch(r"([^:.]*)[:.]?(.*)", typed, re.DOTALL).groups()  # type: ignore[union-attr]  # any text
    return kind, number


def device_kind(device: str) -> str:
    """Return the kind of a device: ``"0"``, ``"0,1"`` and ``"cuda:1"`` are ``"cuda"``."""
    return parse_device(device)[0]


def choose_device(name: str | None, available: Sequence[str], *, why_no_gpu: str = "") -> str:
    """Return the device meant, as a runtime names it: ``"cpu"``, ``"cuda:0"``, ``"mps"``.

    Args:
        name: What was typed: ``cpu``, ``cuda``, ``0``, ``cuda:1``, ``mps``, or what else the runtime has; None: the
            best there is.
        available: The devices of this machine that the runtime can use, the best first.
        why_no_gpu: Why the runtime finds no GPU, where it knows; shown when one is asked for.

    Raises:
        UsageError: The name is not a device, or the device is not there; the hint lists those that are.
    """
    if name is None:
        return available[0]
    hint = f"devices here: {', '.join(available)}"
    kind, number = parse_device(name)
    if "," in number:
        raise UsageError(f"device={name}: an open model runs on one device", hint=hint)
    for device in available:
        own_kind, own_number = parse_device(device)
        if own_kind == kind and (not number or (own_number and number.isdecimal() and int(number) == int(own_number))):
            return device
    known = {"cpu", "cuda", "mps", *map(device_kind, available)}
    if kind not in known or (number and (kind == "cpu" or not number.isdecimal())):
        raise UsageError(f"device={name} is not a device; write cpu, cuda, 0, cuda:1 or mps", hint=hint)
    no_gpu = kind == "cuda" and not any(device_kind(device) == "cuda" for device in available)
    reason = f" ({why_no_gpu})" if no_gpu and why_no_gpu else ""
    raise UsageError(f"device={name} is not there{reason}", hint=hint)


_STREAMS = 4
"""Most images that go through the network side by side; more would take memory and gain little."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def helpers(most: int = 4) -> int:
    """Return how many threads should help the network on this machine: half of the cores, at least one."""
    return max(1, min(most, cores() // 2))


def streams_and_threads(threads: int | None = None) -> tuple[int, int]:
    """Return how many images should go through a CPU side by side, and the threads of the network for each.

    Two images on a core each are done sooner than one after the other on two cores: nobody waits for the other at
    the end of every layer, and reading and decoding take their time from one image only.

    Args:
        threads: All threads there may be; default: the cores.
    """
    total = threads or cores()
    streams = min(_STREAMS, total)
    return streams, total // streams


_BYTES_ON_CPU = 128
"""Bytes a pixel of network input takes at the very least on a CPU: itself as float32 RGB and as uint8, and two layers
of the smallest network; what is tight is let through."""
_BYTES_ELSEWHERE = 15
"""Where the network runs elsewhere: the input alone, as float32 and as uint8."""
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes that this process can still take, within the limits of its container; None: not known."""
    found = [size for size in (_system(), _container()) if size is not None]
    return min(found, default=None)


def check_fits(height: int, width: int, batch: int, *, device: str = "cpu", asked: bool = True) -> None:
    """Refuse a network input that cannot fit into the memory that is there.

    Args:
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        batch: Images per run.
        device: Where the network runs.
        asked: Whether the user asked for it, or the model file says so.

    Raises:
        UsageError: It cannot, and the user asked for it.
        ModelError: It cannot, and the model says so.
    """
    there = available()
    needed = height * width * max(batch, 1) * (_BYTES_ON_CPU if device == "cpu" else _BYTES_ELSEWHERE)
    if there is None or needed <= there:
        return
    of = f" and batch={batch}" if batch > 1 else ""
    msg = f"imgsz={height},{width}{of} takes {_figure(needed)} of memory at least, {_figure(there)} are there"
    raise (UsageError if asked else ModelError)(msg, hint="ask for less: imgsz=640 batch=1")


def _figure(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _system() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _container() -> int | None:
    """Return what the container's limit leaves; file caches give way."""
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((_CGROUP / limit).read_text(encoding="ascii"))  # "max" is no number: there is none
            now = int((_CGROUP / used).read_text(encoding="ascii"))
            rows = dict(line.split() for line in (_CGROUP / stat).read_text(encoding="ascii").splitlines())
            return max(most - now + int(rows.get(cache, 0)), 0)
    return None


def is_first_process() -> bool:
    """Say so from the environment that ``torchrun``, or a run that started processes of its own, gives each of them.

    Without such an environment there is one process, and it is the first.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    rank = os.environ.get("RANK") or ("0" if node == "0" else "1")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


_guarded: set[str] = set()
_forked: set[str] = set()


def guard_forks(library: str, go_alone: Callable[[], object]) -> None:
    """Have a library do without its threads in every process that is forked from this one from now on.

    A fork takes over the memory and one thread. A library that believes in the threads it had waits for them for ever.

    Args:
        library: Its name; guarded once.
        go_alone: Called in the new process: tells the library to use no other threads.
    """
    if library in _guarded or not hasattr(os, "register_at_fork"):
        return
    _guarded.add(library)

    def begin() -> None:
        _forked.add(library)
        go_alone()

    os.register_at_fork(after_in_child=begin)


def forked_from_a_user_of(library: str) -> bool:
    """Return True if a guarded library was in use in the process that this one was forked from."""
    return library in _forked
