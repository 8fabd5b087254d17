"""What programs written for other tools ask a model object for, beside the four verbs: handles, callbacks, refusals."""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any, Self

from segx.callbacks import Callbacks, Exporter, Listener, Predictor, Trainer, Validator
from segx.console import spoken
from segx.errors import MissingAttributeError, UsageError, did_you_mean
from segx.options.verbs import ExportOptions, PredictOptions, TrainOptions, ValOptions
from segx.structures.types import Device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.artifact import ArtifactInfo
    from segx.callbacks import Function, State
    from segx.options.schema import Options
    from segx.plugin.interfaces import Metrics
    from segx.plugin.jobs import ModelSummary
    from segx.plugin.registry import Registry
    from segx.sessions import Sessions

logger = logging.getLogger(__name__)

_VERBS: tuple[type[Options], ...] = (PredictOptions, ValOptions, TrainOptions, ExportOptions)
_ELSEWHERE = {
    "track": "tracking is not there: trackers.ByteTrackTracker().update(result.to_supervision()) tracks",
    "embed": "feature vectors are not returned",
    "tune": "there is no search for hyper-parameters: call train() in a loop, or from Optuna with on_fit_epoch_end",
    "profile": "result.speed and metrics.speed hold the times",
    "push_to_hub": "nothing is sent anywhere: save() writes a file",
    "set_classes": "names are the model's: train with other data",
    "ckpt": "metadata holds what the file says of itself: settings, versions, date",
    "reset_weights": "a model made of a configuration, name.yaml, begins with random weights",
    "transforms": "preprocessing belongs to the task: give images as they are",
}


@functools.cache
def _option_names() -> frozenset[str]:
    return frozenset().union(*(verb.names() for verb in _VERBS))


class Handles:
    """The part of :class:`segx.model.YOLO` that is not its verbs.

    Attributes:
        overrides: Options for every call from now on, by name; what a call is given itself goes before them. ``model``
            and ``task`` say what this model is.
        trainer: What was known of the last training, as its callbacks got it; None before.
        validator: The same of the last validation.
        predictor: The same of the last prediction; ``model.predictor.results`` are those of its last batch.
        exporter: The same of the last export.
        metrics: What the last :meth:`val` or :meth:`train` returned; None before.
    """

    _given: str
    _registry: Registry
    _sessions: Sessions

    def __init__(self) -> None:
        self._defaults: dict[str, Any] = {}
        self._callbacks = Callbacks()
        self.overrides: dict[str, Any] = {}
        self.trainer: Trainer | None = None
        self.validator: Validator | None = None
        self.predictor: Predictor | None = None
        self.exporter: Exporter | None = None
        self.metrics: Metrics | None = None

    @property
    def metadata(self) -> ArtifactInfo:
        """What travels with the model: task, classes, input size, versions, parity."""
        return self._sessions.info

    # Where and how it runs

    @property
    def device(self) -> Device:
        """Where it ran last, ``"cpu"`` or ``"cuda:0"``; before that where :meth:`to` has put it, else the CPU."""
        return Device(self._sessions.device or self._defaults.get("device") or "cpu")

    def to(self, device: Any) -> Self:
        """Predict and validate on this device from now on, where no other is asked for; returns itself.

        Args:
            device: ``"cpu"``, ``"cuda:1"``, a number, or a ``torch.device``.

        Raises:
            UsageError: It is no device's name. Whether it is there is seen when the model runs.
        """
        self._defaults["device"] = PredictOptions.parse({"device": device}).device
        return self

    def cpu(self) -> Self:
        """Run on the CPU, as ``to("cpu")``."""
        return self.to("cpu")

    def cuda(self, index: int = 0) -> Self:
        """Run on a GPU, as ``to("cuda:0")``."""
        return self.to(f"cuda:{index}")

    def half(self) -> Self:
        """Run in half precision, where the runtime can, as ``half=True`` for each call."""
        self._defaults["half"] = True
        return self

    def float(self) -> Self:
        """Run in single precision again, after :meth:`half`."""
        self._defaults.pop("half", None)
        return self

    def eval(self) -> Self:
        """Return the model itself: outside of training it always is in this state."""
        return self

    def fuse(self) -> Self:
        """Return the model itself: what can be folded is folded when it is opened."""
        return self

    def _with_defaults(self, kind: type[Options], given: Mapping[str, Any], *, placed: bool = True) -> dict[str, Any]:
        """Return what is given to a verb, over what was set before for all calls; options of other verbs are left out.

        Args:
            kind: The options of the verb.
            given: What the call is given.
            placed: It runs where :meth:`to` says.
        """
        from segx.io.files import read_options

        others = _option_names() - kind.names()
        before = {**self.overrides, **read_options(given.get("cfg"))}
        overrides = {name: value for name, value in before.items() if name not in others}
        return {**(self._defaults if placed else {}), **overrides, **given}

    # What it is

    @property
    def model(self) -> Any:
        """The model as a ``torch.nn.Module``, with ``names``, ``stride``, ``task`` and ``yaml``: this model itself.

        Values that are changed in it count from the next verb on, as after :meth:`load`, and its hooks are called
        where this model predicts and validates. Other layers are refused there: a network of your own is a YAML, or a
        plugin.

        Raises:
            AttributeError: It is an exported one.
        """
        try:
            return self._sessions.share()
        except UsageError as error:
            raise MissingAttributeError(error.message, hint=error.hint) from error

    def parameters(self, recurse: bool = True) -> Iterator[Any]:  # noqa: FBT001, FBT002 - torch's signature
        """Yield the parameters of :attr:`model`."""
        yield from self.model.parameters(recurse)

    def named_parameters(self, *args: Any, **how: Any) -> Iterator[tuple[str, Any]]:
        """Yield names and parameters of :attr:`model`."""
        yield from self.model.named_parameters(*args, **how)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors of :attr:`model` by name."""
        return dict(self.model.state_dict())

    @property
    def ckpt_path(self) -> str | None:
        """The path of the model's file, as text; None for a new model."""
        path = self._sessions.path
        return None if path is None else os.fspath(path)

    model_name = ckpt_path

    @property
    def cfg(self) -> str | None:
        """The configuration it was made of, where it is a new model; else None."""
        return self._given if self._sessions.path is None else None

    def info(self, detailed: bool = False, verbose: bool = True) -> ModelSummary:  # noqa: FBT001, FBT002
        """Return layers, parameters, gradients and GFLOPs, which can be taken apart in that order.

        Args:
            detailed: Log a line for each parameter.
            verbose: Log them.

        Raises:
            UsageError: The model is an exported one, of which these are not known.
        """
        summary = self._sessions.model("info").describe()
        with spoken(verbose):
            if detailed:
                for number, (name, weights) in enumerate(self.named_parameters()):
                    logger.info("%5d %-40s %9d  %s", number, name, weights.numel(), tuple(weights.shape))
            logger.log(
                logging.INFO if verbose else logging.DEBUG,
                "%s: %d layers, %s parameters (%s fused), %.1f GFLOPs at %dx%d",
                self.metadata.variant or self._given,
                summary.layers,
                f"{summary.parameters:,}",
                f"{summary.fused_parameters:,}",
                summary.gflops,
                *summary.imgsz,
            )
            for note in summary.notes if verbose else ():
                logger.info("%s", note)
        return summary

    # Callbacks

    @property
    def callbacks(self) -> dict[str, list[Function]]:
        """Event to the functions that were added; lists may be changed."""
        return self._callbacks.functions

    def add_callback(self, event: str, func: Function) -> None:
        """Have a function called while this model works; what it raises ends the run and is passed on.

        Args:
            event: See :data:`segx.callbacks.EVENTS`.
            func: Takes one argument: a :class:`~segx.callbacks.Trainer`, :class:`~segx.callbacks.Validator`,
                :class:`~segx.callbacks.Predictor` or :class:`~segx.callbacks.Exporter`.

        Raises:
            UsageError: There is no such event, or it is no function.
        """
        self._callbacks.add(event, func)

    def clear_callback(self, event: str) -> None:
        """Forget the functions of an event.

        Raises:
            UsageError: There is no such event.
        """
        self._callbacks.clear(event)

    def reset_callbacks(self) -> None:
        """Forget all functions that were added."""
        self._callbacks.reset()

    def _listening(self) -> Registry:
        """Return the registry through which this model's callbacks hear of one call."""
        return self._registry.with_listener(Listener(self._callbacks, self._keep))

    def _keep(self, state: State) -> None:
        setattr(self, state.word, state)

    # What is not there

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what would change nothing.

        Raises:
            UsageError: It is the name of an option.
        """
        if name in _option_names():
            raise UsageError(f"model.{name} cannot be set", hint=f"model.overrides[{name!r}] = {value!r}")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Say of what other tools have, and this one has not, what there is instead.

        Raises:
            AttributeError: Always: it is asked for what is not there.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        if isinstance(own := getattr(type(self), name, None), property):
            return own.__get__(self)  # it raised an AttributeError, which Python hides: raise it again
        if name in _ELSEWHERE:
            raise MissingAttributeError(f"{name}: {_ELSEWHERE[name]}")
        known = [*vars(self), *(item for item in dir(type(self)) if not item.startswith("_"))]
        close = did_you_mean(name, known)
        raise MissingAttributeError(f"{type(self).__name__} has no attribute {name!r}{close}")
