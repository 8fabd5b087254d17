"""A module that was given away: what is changed in it from outside is seen, and its hooks are called."""

from __future__ import annotations

import contextlib
import threading
import zlib
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
"""Where torch keeps the functions of a layer that are called with what goes in and what comes out."""
_dressing = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class State:
    """What a module was at some time.

    Attributes:
        layers: Name and class of each layer, name and shape of each tensor.
        quick: Of each tensor where it lies, how often it was changed in place, and the sum of its bits: cheap to look
            at before each call. ``tensor.data.mul_(2)`` changes the last only.
        values: A checksum of all values; made anew only where ``quick`` is another.
    """

    layers: tuple[tuple[str, str], ...]
    quick: tuple[tuple[int, int, int], ...]
    values: int

    @classmethod
    def of(cls, module: nn.Module, before: Self | None = None) -> Self:
        """Return what a module is now; ``before`` saves reading all of what has not changed."""
        tensors = module.state_dict()
        quick = tuple(map(_quick, tensors.values()))
        same = before is not None and before.quick == quick
        return cls(
            layers=tuple(_layers(module, tensors)),
            quick=quick,
            values=before.values if before is not None and same else _checksum(tensors),
        )

    def other_layer(self, now: State) -> str:
        """Return the first layer or tensor that is another now, in words."""
        for mine, theirs in zip_longest(self.layers, now.layers, fillvalue=("", "")):
            if mine != theirs:
                return (
                    f"{theirs[0]} is {theirs[1]}, was {mine[1]}" if mine[0] == theirs[0] else f"{mine[0] or theirs[0]}"
                )
        return ""


def _layers(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name, layer in module.named_modules():
        yield name, type(layer).__name__
    for name, tensor in tensors.items():
        yield name, f"of shape {tuple(tensor.shape)}"


def _quick(tensor: Tensor) -> tuple[int, int, int]:
    bits = tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, int(bits.sum())  # noqa: SLF001 - there is no other way to it


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for tensor in tensors.values():
        total = zlib.adler32(tensor.detach().float().cpu().contiguous().numpy().tobytes(), total)
    return total


@contextlib.contextmanager
def undressed(module: nn.Module, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Take hooks and some attributes off a module for a while: a copy would copy whatever they belong to."""
    with _dressing:
        hooks = [(layer, name, getattr(layer, name)) for layer in module.modules() for name in _HOOKS]
        for layer, name, functions in hooks:
            setattr(layer, name, type(functions)())
        for name in attributes:
            vars(module).pop(name, None)
        try:
            yield
        finally:
            for layer, name, functions in hooks:
                setattr(layer, name, functions)
            vars(module).update(attributes)


def has_hooks(module: nn.Module) -> bool:
    """Return True if a layer has hooks."""
    return any(getattr(layer, name) for layer in module.modules() for name in _HOOKS)


def share_hooks(module: nn.Module, copy: nn.Module) -> None:
    """Let a copy call the hooks that a module has, and those that it gets later."""
    layers = dict(copy.named_modules())
    for place, layer in module.named_modules():
        if place in layers:
            for name in _HOOKS:
                setattr(layers[place], name, getattr(layer, name))
