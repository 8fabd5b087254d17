"""``segx cache``: the files segx has downloaded or worked out, which may be thrown away at any time."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from segx.words import counted
from segx_cli.output import table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from segx_cli.commands import Call
    from segx_cli.output import Output

_DATA = "datasets/"


def run(call: Call, output: Output) -> int:
    """List the files in the cache folder."""
    del call
    from segx.io.paths import cache_folder

    folder = cache_folder()
    files = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
    rows = [(f"{size / 1e6:.1f} MB", name) for name, size in files.items()]
    total = f"{counted(len(files), 'file')}, {sum(files.values()) / 1e6:.1f} MB in {folder}"
    output.result(
        "\n".join([*([table(("size", "file"), rows)] if rows else []), total]), {"folder": folder, "files": files}
    )
    return 0


def clear(call: Call, output: Output) -> int:
    """Remove the files in the cache folder, or those that match; data sets only when 'datasets/*' asks for them."""
    from segx.io.paths import cache_folder

    folder, pattern = cache_folder(), str(call.arguments["pattern"])
    kept = 0
    doomed = []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if not fnmatch.fnmatchcase(name, pattern):
            continue
        if name.startswith(_DATA) and not pattern.startswith(_DATA):
            kept += path.stat().st_size
        else:
            doomed.append(path)
    freed = sum(path.stat().st_size for path in doomed)
    for path in doomed:
        path.unlink(missing_ok=True)
    for empty in sorted((path for path in _contents(folder) if path.is_dir()), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
    stays = f"; data sets stay ({kept / 1e6:.1f} MB): segx cache clear '{_DATA}*'" if kept else ""
    text = f"removed {counted(len(doomed), 'file')}, {freed / 1e6:.1f} MB{stays}"
    output.result(text, {"removed": len(doomed), "bytes": freed})
    return 0


def _contents(folder: Path) -> Iterator[Path]:
    """Yield what lies in the parts of the cache that segx made; a user's own files beside them are not ours."""
    from segx.io.paths import CACHE_PARTS

    for part in CACHE_PARTS:
        if (folder / part).is_dir():
            yield folder / part
            yield from (folder / part).rglob("*")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in _contents(folder) if path.is_file())
