"""A bar on a terminal while something takes long."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from segx.terminal import visible, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(
    total: int | None, name: str, *, shown: bool = True, unit: str = " pictures"
) -> Iterator[Callable[[int], object]]:
    """Show a bar on standard error where that is a terminal; yields what moves it on by a number.

    Args:
        total: How many there will be, when known.
        name: What is being done.
        shown: Whether it is wanted.
        unit: What is counted.
    """
    if not (shown and watched()):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, desc=visible(name), leave=False) as bar:
        yield bar.update
