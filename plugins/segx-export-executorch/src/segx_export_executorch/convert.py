"""Has ExecuTorch lower a traced program: runs in a process of its own, as it warns of itself and logs."""

from __future__ import annotations

from pathlib import Path

import torch  # noqa: TID253 - this module is imported in processes of its own
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower


def convert(source: str, destination: str) -> None:
    """Write what ExecuTorch runs, with all that XNNPACK can do handed to it.

    Args:
        source: A program that torch.export has saved.
        destination: The ``.pte`` to write.
    """
    lowered = to_edge_transform_and_lower(torch.export.load(source), partitioner=[XnnpackPartitioner()])
    with Path(destination).open("wb") as file:
        lowered.to_executorch().write_to_file(file)
