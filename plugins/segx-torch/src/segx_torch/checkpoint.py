"""Reads checkpoints of any kind into tensors, and writes segx's own."""

from __future__ import annotations

import errno
import json
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from segx.io.files import replacing
from segx_torch.container import FORMAT, open_container
from segx_torch.safetensors_file import CHECKSUMS, DEFINITION
from segx_torch.unpickle import TensorRef

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx_torch.archive import Archive
    from segx_torch.container import CheckpointType, Container
    from segx_torch.safetensors_file import SafetensorsFile

SAFETENSORS = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on its way to or from a file.

    In a file of segx's own these are the entries of one dict, under the names ``metadata`` (text),
    ``definition``, ``weights`` and ``training``, beside ``segx``, the version of the layout.

    Attributes:
        info: What is known of the model.
        definition: The content of its YAML: ``nc``, ``scales``, ``scale``, ``backbone``, ``head``; None when unknown.
        weights: The state dict to predict with; while a training runs, the averaged (EMA) weights.
        training: What a run needs to go on exactly where it stopped, or None for a finished model. Tensors, numbers,
            text, lists and dicts only; see :class:`segx_torch.training.state.Snapshot`.
        kind: Who wrote the file it was read from.
    """

    info: ArtifactInfo
    definition: Mapping[str, Any] | None
    weights: Mapping[str, Tensor]
    training: Mapping[str, Any] | None = None
    kind: CheckpointType = "segx"


def read_checkpoint(path: Path, *, training: bool = False) -> Checkpoint:
    """Return what a checkpoint holds; nothing in it is executed.

    Args:
        path: An official ``.pt``, segx's own, a plain state dict, or safetensors.
        training: Also read the state of an unfinished training, when there is one.

    Raises:
        ModelError: The file is missing, damaged, unsafe or of another kind.
    """
    with open_container(path) as container:
        return read_container(container, training=training)


def read_container(container: Container, *, training: bool = False) -> Checkpoint:
    """Return what an open container holds; floating-point weights become float32, training state stays as it is."""
    weights = _Storages(container.numbers, float32=True)
    state = _Storages(container.numbers, float32=False)
    return Checkpoint(
        info=container.info,
        definition=container.definition,
        weights={name: weights.tensor(ref) for name, ref in container.weights.items()},
        training=_with_tensors(container.training, state) if training else None,
        kind=container.kind,
    )


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write a checkpoint; a reader sees the old file or the whole new one, whatever happens meanwhile.

    A name ending in ``.safetensors`` is written in that format, without the training state. Any other is a
    ``torch.save`` archive of tensors and plain values, loadable with ``torch.load(..., weights_only=True)``.

    Args:
        path: The file.
        checkpoint: What to write.
        half: Store floating-point weights as float16; the training state keeps its precision.

    Raises:
        DataError: The file cannot be written: no space, no permission; what was there before is untouched.
        TypeError: The training state holds something that is neither a tensor nor plain.
    """
    weights = {name: _stored(tensor, half=half) for name, tensor in checkpoint.weights.items()}
    if path.suffix == SAFETENSORS:
        checksums = {name: zlib.crc32(_bytes(tensor)) for name, tensor in weights.items()}
        own = {DEFINITION: json.dumps(checkpoint.definition), CHECKSUMS: json.dumps(checksums)}
        payload = safetensors.torch.save(weights, {**checkpoint.info.to_metadata(), **own})
        _write(path, lambda file: file.write(payload))
        return
    content = {
        "segx": FORMAT,
        "metadata": checkpoint.info.to_metadata(),
        "definition": _plain_copy(checkpoint.definition, "definition"),
        "weights": weights,
        "training": _plain_copy(checkpoint.training, "training"),
    }
    _write(path, lambda file: torch.save(content, file))


class _Storages:
    """Reads each storage once, however many tensors look into it."""

    def __init__(self, numbers: Archive | SafetensorsFile, *, float32: bool) -> None:
        self._numbers = numbers
        self._float32 = float32
        self._read: dict[tuple[str, str], Tensor] = {}

    def tensor(self, ref: TensorRef) -> Tensor:
        """Return the tensor meant; its place in the storage was checked when the container was opened."""
        key = (ref.storage.key, ref.storage.dtype)
        if key not in self._read:
            self._read[key] = self._storage(ref)
        return self._read[key].as_strided(ref.shape, ref.stride, ref.offset)

    def _storage(self, ref: TensorRef) -> Tensor:
        storage = torch.empty(ref.storage.count, dtype=getattr(torch, ref.storage.dtype))
        if ref.storage.count:
            self._numbers.read_into(ref.storage.key, _bytes(storage))
        return storage.float() if self._float32 and storage.is_floating_point() else storage


def _with_tensors(tree: Any, storages: _Storages) -> Any:
    """Return a tree with tensors in the places of references; the tree's size is bounded by its pickle's."""
    match tree:
        case TensorRef():
            return storages.tensor(tree)
        case dict():
            return {key: _with_tensors(value, storages) for key, value in tree.items()}
        case list() | tuple():
            return type(tree)(_with_tensors(value, storages) for value in tree)
        case _:
            return tree


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    """Return a tensor of its own, on the CPU, so that no more than its elements are written."""
    kept = tensor.detach().to("cpu", torch.float16 if half and tensor.is_floating_point() else tensor.dtype)
    kept = kept.contiguous()
    whole = kept.untyped_storage().nbytes() == kept.nbytes
    return kept if whole else kept.clone()


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, writable in place."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _plain_copy(tree: Any, where: str) -> Any:
    match tree:
        case Tensor():
            return _stored(tree, half=False)
        case dict():
            return {key: _plain_copy(value, f"{where}.{key}") for key, value in tree.items()}
        case list() | tuple():
            return type(tree)(_plain_copy(value, f"{where}[{index}]") for index, value in enumerate(tree))
        case None | bool():
            return tree
        case np.generic():
            return tree.item()
        case int() | float() | str():  # also of a subclass, which a reader that trusts nobody would refuse
            return next(kind(tree) for kind in (int, float, str) if isinstance(tree, kind))
        case _:
            raise TypeError(f"{where} is a {type(tree).__name__}; a checkpoint holds tensors and plain values only")


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all, and have it on the disk before it takes the old one's place."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            write(file)
        except RuntimeError as error:  # how torch's own zip writer tells that it could not write all
            if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):
                raise OSError(errno.ENOSPC, "no space left, or a limit on the size of files") from error
            raise OSError(errno.EIO, str(error).splitlines()[0]) from error
        file.flush()
        os.fsync(file.fileno())
