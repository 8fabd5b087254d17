"""Runs a Core ML program in NumPy: slow beside Core ML, on any system, and checked before it begins."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segx_backend_coreml.operators import EXACT, OPERATORS
from segx_backend_coreml.program import HALF, Name, Operation, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_CONSTANT = "const"
_FOLDED = "constexpr_"
_NEEDED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class _Step:
    """One operation, ready to run.

    Attributes:
        function: What computes it.
        constants: Arguments that are known.
        variables: Argument to the name, or list of names and constants, that is looked up.
        outputs: Names of what it gives.
        rounded: Whether each output is held in 16 bits.
        done: Names that nobody needs afterwards.
    """

    function: Callable[..., Any]
    constants: Mapping[str, Any]
    variables: Mapping[str, Any]
    outputs: tuple[str, ...]
    rounded: tuple[bool, ...]
    done: tuple[str, ...]


class Executor:
    """A program whose operations are all known, with its weights unpacked.

    Args:
        program: What has been read.

    Raises:
        ValueError: It has operations or arguments that are not run here: all of them are named.
    """

    def __init__(self, program: Program) -> None:
        _refuse_unknown(program)
        self._known: dict[str, Any] = {}
        steps: list[tuple[Operation, Mapping[str, Any]]] = []
        for operation in program.operations:
            arguments = {name: self._settled(value) for name, value in operation.arguments.items()}
            if operation.kind == _CONSTANT:
                self._known[operation.outputs[0].name] = _float(arguments["val"])
            elif operation.kind.startswith(_FOLDED):
                made = OPERATORS[operation.kind](**arguments)
                self._known[operation.outputs[0].name] = _round(made) if operation.outputs[0].type == HALF else made
            else:
                steps.append((operation, arguments))
        self._inputs = program.inputs
        self._outputs = program.outputs
        self._steps = tuple(_planned(steps, program.outputs))

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name, for what the only input takes."""
        values: dict[str, Any] = {self._inputs[0].name: images}
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and its reciprocal 0: as it should be
            for step in self._steps:
                found = step.function(**step.constants, **{k: _looked_up(v, values) for k, v in step.variables.items()})
                several = found if isinstance(found, list | tuple) else (found,)
                for name, value, rounded in zip(step.outputs, several, step.rounded, strict=True):
                    values[name] = _round(value) if rounded else value
                for name in step.done:
                    del values[name]
        return {name: values[name] if name in values else self._known[name] for name in self._outputs}

    def _settled(self, value: Any) -> Any:
        """Return an argument with names of constants replaced by what they are."""
        if isinstance(value, list):
            return [self._settled(item) for item in value]
        return self._known.get(value.name, value) if isinstance(value, Name) else value


def _refuse_unknown(program: Program) -> None:
    if len(program.inputs) != 1:
        raise ValueError(f"it has {len(program.inputs)} inputs; models with one are run here")
    unknown = Counter(item.kind for item in program.operations if item.kind not in OPERATORS and item.kind != _CONSTANT)
    if unknown:
        names = ", ".join(f"{name} ({count}x)" for name, count in sorted(unknown.items()))
        raise ValueError(f"its program has operations that are not run here: {names}")
    strange: set[str] = set()
    for operation in program.operations:
        if operation.kind == _CONSTANT:
            continue
        known = inspect.signature(OPERATORS[operation.kind]).parameters
        strange |= {f"{operation.kind}({name}=)" for name in operation.arguments if name not in known}
        needed = {name for name, about in known.items() if about.kind in _NEEDED and about.default is about.empty}
        strange |= {f"{operation.kind} without {name}" for name in needed if name not in operation.arguments}
    if strange:
        raise ValueError(f"its program has arguments that are not known here: {', '.join(sorted(strange))}")


def _planned(steps: list[tuple[Operation, Mapping[str, Any]]], kept: tuple[str, ...]) -> Iterator[_Step]:
    """Yield the steps, each with what can be forgotten after it, so that memory holds only what is still needed."""
    last: dict[str, int] = {}
    for index, (operation, arguments) in enumerate(steps):
        last.update((name, index) for value in arguments.values() for name in _names(value))
        last.update((output.name, index) for output in operation.outputs)
    for name in kept:
        last.pop(name, None)
    done: list[list[str]] = [[] for _ in steps]
    for name, index in last.items():
        done[index].append(name)
    for (operation, arguments), over in zip(steps, done, strict=True):
        variables = {key: value for key, value in arguments.items() if any(True for _ in _names(value))}
        exact = operation.kind in EXACT
        yield _Step(
            function=OPERATORS[operation.kind],
            constants={key: value for key, value in arguments.items() if key not in variables},
            variables=variables,
            outputs=tuple(output.name for output in operation.outputs),
            rounded=tuple(output.type == HALF and not exact for output in operation.outputs),
            done=tuple(over),
        )


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, Name):
        yield value.name
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _looked_up(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Name):
        return values[value.name]
    return [_looked_up(item, values) for item in value] if isinstance(value, list) else value


def _float(value: Any) -> Any:
    """Return floats of 16 bits as those of 32 that all arithmetic here is done in."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


def _round(value: NDArray[Any]) -> NDArray[Any]:
    """Return floats as 16 bits hold them."""
    return value.astype(np.float16).astype(np.float32) if value.dtype == np.float32 else value
