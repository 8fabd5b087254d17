"""A module that was given away: what is changed in it from outside is seen, and its hooks are called."""

from __future__ import annotations

import contextlib
import re
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
"""Where torch keeps the functions of a layer that are called with what goes in and what comes out."""
_HARMLESS = re.compile(r"(, )?\b(inplace|momentum)=[^,]*")
"""Of the settings of layers, what changes no result."""
_dressing = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class State:
    """What a module was at some time.

    Attributes:
        layers: Layer to its class and settings, tensor to its shape, by name.
        values: A checksum of all values in their order. Nothing cheaper sees all: ``tensor.data`` and NumPy views
            change them without a mark, and a sum stays the same where filters change places.
    """

    layers: Mapping[str, str]
    values: int

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Return what a module is now."""
        tensors = module.state_dict()
        return cls(layers=dict(_layers(module, tensors)), values=_checksum(tensors))

    def other_layer(self, now: State) -> str:
        """Return the first layer or tensor that is another now, in words."""
        for name in {**self.layers, **now.layers}:
            mine, theirs = self.layers.get(name, "not there"), now.layers.get(name, "not there")
            if mine != theirs:
                return f"{name} is {theirs}, was {mine}"
        return ""


def _layers(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name, layer in module.named_modules():
        settings = _HARMLESS.sub("", layer.extra_repr())
        yield name, f"{type(layer).__name__}({settings})" if settings else type(layer).__name__
    for name, tensor in tensors.items():
        yield name, f"of shape {tuple(tensor.shape)}"


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for tensor in tensors.values():
        total = zlib.adler32(tensor.detach().float().cpu().contiguous().numpy().data, total)
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
