"""Runs code where every connection fails and every file it leaves behind is seen."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

from segx.testing.interpreter import environment, run_fresh

if TYPE_CHECKING:
    from pathlib import Path

_FOREIGN = ("CI", "GITHUB_", "JENKINS_", "TF_", "XDG_", "ORT_", "MPL", "HF_", "NNCF_", "TORCH", "TRITON_", "SEGX_CACHE")
"""How variables begin that say that a test is running, or where libraries may write."""

# Imported by every interpreter that is started, of its own accord and before anything else: those that the code starts
# are seen too. An audit hook sees what C code asks of Python's sockets.
_NO_CONNECTIONS = """
import sys
def _refuse(event, arguments):
    if event in {{"socket.connect", "socket.sendto"}} and not isinstance(arguments[1], (tuple, list)):
        return  # between processes of this machine
    if event in {{"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}}:
        with open({asked!r}, "a", encoding="utf-8") as file:
            file.write(f"{{event}}{{arguments[-1] if event == 'socket.connect' else arguments}}\\n")
        raise OSError("there is no network here")
sys.addaudithook(_refuse)
"""
_WAIT = """
import sys, time
time.sleep(1.5)  # reports are sent by threads that begin late
print('"done"', file=sys.__stdout__)
"""


def assert_keeps_to_itself(code: str, *arguments: str, folder: Path) -> None:
    """Run code in a fresh interpreter with an empty home folder, and see that it leaves nothing and calls nobody.

    Args:
        code: Python; may be indented. ``sys.argv[1:]`` holds the arguments.
        *arguments: Given to it.
        folder: An empty folder; in it are the home, the working, the temporary folder and segx's cache meanwhile.

    Raises:
        AssertionError: It asked for a connection, or a file is left outside segx's cache.
    """
    places = {name: folder / name for name in ("home", "work", "temporary", "cache")}
    for place in places.values():
        place.mkdir(parents=True)
    kept = {name: value for name, value in environment().items() if not name.startswith(_FOREIGN)}
    own = {
        "HOME": str(places["home"]),
        "USERPROFILE": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        "SEGX_CACHE": str(places["cache"]),
    }
    watch, asked = folder / "watch", folder / "asked.txt"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(_NO_CONNECTIONS.format(asked=str(asked)), encoding="utf-8")
    own["PYTHONPATH"] = os.pathsep.join((str(watch), kept["PYTHONPATH"]))
    whole = f"import json, sys, time\n{textwrap.dedent(code)}\n{_WAIT}"
    done = run_fresh(whole, *arguments, warnings="default", env={**kept, **own}, folder=places["work"])
    assert done == "done"
    connections = asked.read_text(encoding="utf-8") if asked.exists() else ""
    assert not connections, f"it asked for a connection: {connections}"
    left = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if not path.is_dir()]
    left = [name for name in left if not name.startswith(("cache", "watch"))]
    assert not left, f"it left files behind: {left}"
