"""The contracts that plugins inherit, and tiny images and models to test with.

A plugin's ``tests/test_contract.py``::

    from segx.testing import ExporterContract


    class TestFoo(ExporterContract):
        distribution = "segx-export-foo"
        name = "foo"

The tests of a contract are the same for everybody: they may not be overridden. One that is known to fail is named with
the reason in ``xfail = {"test_batch": "foo has no batches, see issue 7"}``; when it passes again, that is reported.
Needs pytest: ``pip install "segx-core[testing]"``.
"""

from __future__ import annotations

import pytest

# Before they are imported, so that a failing contract shows the values it compared.
pytest.register_assert_rewrite(
    "segx.testing.architecture",
    "segx.testing.backend",
    "segx.testing.dataset",
    "segx.testing.exporter",
    "segx.testing.parity",
    "segx.testing.plugin",
    "segx.testing.task",
)

from segx.testing.architecture import ArchitectureContract  # noqa: E402 - after the line above
from segx.testing.backend import BackendContract  # noqa: E402
from segx.testing.dataset import DatasetContract  # noqa: E402
from segx.testing.exporter import ExporterContract  # noqa: E402
from segx.testing.plugin import PluginContract  # noqa: E402
from segx.testing.task import TaskContract  # noqa: E402

__all__ = [
    "ArchitectureContract",
    "BackendContract",
    "DatasetContract",
    "ExporterContract",
    "PluginContract",
    "TaskContract",
]
