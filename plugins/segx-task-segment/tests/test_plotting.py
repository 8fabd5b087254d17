"""matplotlib is imported without a trace, whatever the environment says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from segx.testing.interpreter import environment, run_fresh

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")

LOADS = """
    import json, os
    before = dict(os.environ)
    from segx.io.plotting import load_matplotlib
    mpl = load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0, 0, "words")
    figure.savefig(os.devnull, format="png")
    assert mpl is load_matplotlib()
    assert dict(os.environ) == before, "the environment is what it was"
    print(json.dumps(str(dict.__getitem__(mpl.rcParams, "backend"))))
"""


@pytest.mark.parametrize(("backend", "kept"), [("no such thing", False), ("module://gone", True), ("svg", True)])
def test_a_backend_for_windows_breaks_no_chart(tmp_path: Path, backend: str, kept: bool) -> None:
    env = {**environment(), "HOME": str(tmp_path / "home"), "SEGX_CACHE": str(tmp_path / "cache")}
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        env.pop(name, None)
    found = run_fresh(LOADS, warnings="default", env={**env, "MPLBACKEND": backend})
    assert (found == backend) == kept
    assert not (tmp_path / "home").exists()
    assert list((tmp_path / "cache" / "matplotlib").glob("fontlist*"))
