"""Callbacks of one model: functions of a program's own that are called while it predicts, validates, trains, exports.

They stand on the same hooks as plugins, but hear only of the model they were added to, and what they raise ends the
run: a program stops a training that way. Each gets one object that holds what is known so far: a :class:`Trainer`,
:class:`Validator`, :class:`Predictor` or :class:`Exporter`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from segx.errors import MissingAttributeError, UsageError, WrongTypeError, did_you_mean
from segx.options.verbs import ExportOptions, PredictOptions, TrainOptions, ValOptions
from segx.runs import EnoughError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from segx.options.schema import Options
    from segx.runs import Mode, Run, Step

    Function = Callable[[Any], object]

EVENTS: dict[str, str] = {
    "on_pretrain_routine_start": "the training's folder is there",
    "on_pretrain_routine_end": "data and model are ready",
    "on_train_start": "the training begins",
    "on_train_epoch_start": "an epoch begins",
    "on_train_batch_end": "a batch of a training is done",
    "on_train_epoch_end": "all batches of an epoch are done; it is not validated yet",
    "on_model_save": "an epoch's weights are written",
    "on_fit_epoch_end": "an epoch is validated; trainer.metrics are its figures",
    "on_train_end": "the best weights are measured, and exported where that was asked for",
    "teardown": "a training is over",
    "on_val_start": "a validation begins: of model.val(), and of the best weights after a training",
    "on_val_batch_end": "a batch of a validation is done",
    "on_val_end": "validator.metrics are its figures",
    "on_predict_start": "a prediction begins",
    "on_predict_postprocess_end": "predictor.results are those of a batch, before they are returned",
    "on_predict_batch_end": "the same, after it",
    "on_predict_end": "all images are done",
    "on_export_start": "an export begins",
    "on_export_end": "exporter.file is written and proven",
}
"""Event to when it happens."""
_ELSEWHERE = {
    **dict.fromkeys(("on_train_batch_start", "on_val_batch_start", "on_predict_batch_start"), "only ends are reported"),
    **dict.fromkeys(("optimizer_step", "on_before_zero_grad", "on_params_update"), "it is not reported"),
}


class Callbacks:
    """The functions that were added to one model."""

    def __init__(self) -> None:
        self.functions: dict[str, list[Function]] = {event: [] for event in EVENTS}

    def add(self, event: str, function: Function) -> None:
        """Have a function called at an event.

        Raises:
            UsageError: There is no such event, or it is no function.
        """
        self._check(event)
        if not callable(function):
            raise WrongTypeError(f"a callback is a function that takes one argument, not {function!r}")
        self.functions[event].append(function)

    def clear(self, event: str) -> None:
        """Forget the functions of an event.

        Raises:
            UsageError: There is no such event.
        """
        self._check(event)
        self.functions[event].clear()

    def reset(self) -> None:
        """Forget all functions."""
        for functions in self.functions.values():
            functions.clear()

    def call(self, event: str, state: State) -> None:
        """Call the functions of an event, in the order they were added."""
        for function in tuple(self.functions[event]):
            function(state)

    def _check(self, event: str) -> None:
        if event not in EVENTS:
            why = f": {_ELSEWHERE[event]}" if event in _ELSEWHERE else did_you_mean(str(event), EVENTS)
            raise UsageError(f"event {event!r} is not known here{why}", hint=f"events: {', '.join(EVENTS)}")


class Listener:
    """Hears of the runs of one call of a verb, and calls the model's functions.

    Args:
        callbacks: The functions.
        keep: Gets what each kind of run is reported with, as it begins.
    """

    def __init__(self, callbacks: Callbacks, keep: Callable[[State], None]) -> None:
        self._callbacks, self._keep = callbacks, keep
        self._states: dict[Mode, State] = {}

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Hear of an event of :class:`segx.plugin.registry.Registry`."""
        run: Run = facts["run"]
        if event == "run_started" and run.mode in _STATES:
            self._states[run.mode] = state = _STATES[run.mode](run)
            self._keep(state)
        if event != "run_failed" and run.mode in self._states:
            state = self._states[run.mode]
            for name in getattr(state, f"_{event}")(**{key: value for key, value in facts.items() if key != "run"}):
                self._callbacks.call(name, state)
                state._called()  # noqa: SLF001 - of this module


class State:
    """What a callback gets.

    Attributes:
        args: The options, each an attribute; those not given are None.
        save_dir: The run's folder, when there is one.
    """

    word: ClassVar[str]
    options: ClassVar[type[Options]]

    def __init__(self, run: Run) -> None:
        unset: dict[str, Any] = dict.fromkeys(self.options.names())
        self.args = SimpleNamespace(**{**unset, **run.options, "model": run.model, "mode": run.mode})
        self.save_dir: Path | None = run.folder

    def __getattr__(self, name: str) -> Any:
        """Say what there is.

        Raises:
            AttributeError: Always: it is asked for what is not there.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        kind = type(self)
        names = {*vars(self), *dir(kind)} - {"word", "options"}
        known = [item for item in names if not item.startswith("_")]
        raise MissingAttributeError(
            f"{kind.word} has no {name!r} here{did_you_mean(name, known)}", hint=f"it has: {', '.join(sorted(known))}"
        )

    def _run_started(self) -> Iterator[str]:
        yield from ()

    def _step_ended(self, step: Step, **_facts: Any) -> Iterator[str]:  # noqa: ARG002
        yield from ()

    def _run_ended(self, metrics: Mapping[str, float], result: Any = None) -> Iterator[str]:  # noqa: ARG002
        yield from ()

    def _called(self) -> None:
        """Take over what a callback has changed; only some things can be."""


class Trainer(State):
    """What callbacks of a training get.

    Attributes:
        epoch: The epoch under way, from 0.
        epochs: How many there will be.
        batch_i: The batch that is done, from 0.
        batches: How many an epoch has; None before the first.
        metrics: Name to value: after validation the figures of the epoch, ``"metrics/mAP50-95(M)"``, its ``"val/..."``
            losses and ``"fitness"``; in the end those of the best weights.
        loss_names: Names of the losses, ``"box_loss"``; none before the first batch.
        tloss: float64 (losses,): their means over the epoch so far.
        lr: Name to value: learning rates.
        fitness: What epochs are ranked by; None before the first validation.
        best_fitness: The highest so far.
        best: Where the weights of the best epoch are written.
        last: Where those of the last one are.
        wdir: The folder of both.
        csv: The table with a row for each epoch.
        epoch_time: Seconds that the last epoch took, validation included.
        stop: Set to True, the training ends after this epoch as if it were the last one.
    """

    word = "trainer"
    options = TrainOptions

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        folder = run.folder
        assert folder is not None  # a training always has one  # noqa: S101
        self.epoch, self.epochs, self.batch_size = 0, int(self.args.epochs), int(self.args.batch)
        self.batch_i, self.stop = 0, False
        self.batches: int | None = None
        self.metrics: dict[str, float] = {}
        self.loss_names: tuple[str, ...] = ()
        self.tloss: Any = ()
        self.lr: dict[str, float] = {}
        self.fitness: float | None = None
        self.best_fitness: float | None = None
        self.epoch_time = self._clock = 0.0
        self.wdir, self.csv = folder / "weights", folder / "results.csv"
        self.best, self.last = self.wdir / "best.pt", self.wdir / "last.pt"

    def label_loss_items(self, loss_items: Iterable[float] | None = None, prefix: str = "train") -> dict[str, float]:
        """Return losses by name, with ``prefix`` before it; default: those of the epoch so far."""
        losses = self.tloss if loss_items is None else loss_items
        return {f"{prefix}/{name}": float(loss) for name, loss in zip(self.loss_names, losses, strict=True)}

    def _learned(self, row: Mapping[str, float]) -> None:
        from segx.structures.arrays import ResultArray

        losses = {name: value for name, value in row.items() if name.startswith("train/")}
        self.loss_names = tuple(name.removeprefix("train/") for name in losses)
        self.tloss = ResultArray.of(list(losses.values()))

    def _run_started(self) -> Iterator[str]:
        yield from ("on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start")

    def _step_ended(self, step: Step, **_facts: Any) -> Iterator[str]:
        if step.kind == "batch":
            self.batch_i, self.batches = step.index, step.total
            self._learned(step.metrics)
            yield "on_train_batch_end"
        elif step.kind == "stage" and step.name in _STAGES:
            self.epoch, self.epochs = step.index, step.total or self.epochs
            yield _STAGES[step.name]
        elif step.kind == "epoch":
            row = step.metrics
            self.epoch, self.epochs = step.index, step.total or self.epochs
            self.epoch_time, self._clock = row["time"] - self._clock, row["time"]
            self._learned(row)
            self.lr = {name: value for name, value in row.items() if name.startswith("lr/")}
            left_out = {"epoch", "time", *self.label_loss_items(), *self.lr}
            self.metrics = {name: value for name, value in row.items() if name not in left_out}
            if "fitness" in row:
                self.fitness = row["fitness"]
                self.best_fitness = max(self.fitness, self.fitness if self.best_fitness is None else self.best_fitness)
            yield from (*(("on_model_save",) if self.args.save else ()), "on_fit_epoch_end")
            if self.stop:
                raise EnoughError

    def _run_ended(self, metrics: Mapping[str, float], result: Any = None) -> Iterator[str]:
        self.metrics = dict(metrics) if result is None else dict(result.results_dict)
        yield from ("on_train_end", "teardown")


_STAGES = {"train": "on_train_epoch_start", "val": "on_train_epoch_end"}


class Validator(State):
    """What callbacks of a validation get.

    Attributes:
        metrics: The figures, as :meth:`segx.model.YOLO.val` returns them; None before the end.
        speed: Milliseconds an image for each stage; empty before the end.
        batch_i: The batch that is done, from 0.
        seen: Images so far.
    """

    word = "validator"
    options = ValOptions

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.metrics: Any = None
        self.speed: Mapping[str, float] = {}
        self.batch_i = self.seen = 0

    def _run_started(self) -> Iterator[str]:
        yield "on_val_start"

    def _step_ended(self, step: Step, **_facts: Any) -> Iterator[str]:
        self.batch_i = step.index
        self.seen += int(step.metrics.get("images", 0))
        yield "on_val_batch_end"

    def _run_ended(self, metrics: Mapping[str, float], result: Any = None) -> Iterator[str]:
        self.metrics, self.speed = (metrics, {}) if result is None else (result, result.speed)
        yield "on_val_end"


class Predictor(State):
    """What callbacks of a prediction get.

    Attributes:
        results: Those of the last batch. Put as many other things in their place, and these are returned instead.
        batch: Paths, images (uint8 (H, W, 3) BGR), None and an empty text, of the last batch.
        dataset: Its ``bs`` is the number of images in the last batch.
        seen: Images so far.
    """

    word = "predictor"
    options = PredictOptions

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.results: Any = []
        self.batch: tuple[list[str], list[Any], None, str] = ([], [], None, "")
        self.dataset = SimpleNamespace(bs=0)
        self.seen = 0
        self._given: list[Any] = []

    def _run_started(self) -> Iterator[str]:
        yield "on_predict_start"

    def _step_ended(self, step: Step, results: list[Any] | None = None, **_facts: Any) -> Iterator[str]:
        self._given = [] if results is None else results
        self.results = list(self._given)
        self.batch = ([one.path for one in self._given], [one.orig_img for one in self._given], None, "")
        self.dataset.bs = len(self._given)
        self.seen += int(step.metrics.get("images", 0))
        yield from ("on_predict_postprocess_end", "on_predict_batch_end")

    def _run_ended(self, metrics: Mapping[str, float], result: Any = None) -> Iterator[str]:  # noqa: ARG002
        yield "on_predict_end"

    def _called(self) -> None:
        """Return what a callback has put into the place of the results.

        Raises:
            UsageError: It is more, or less.
        """
        self.results = list(self.results)
        if len(self.results) != len(self._given):
            count, images = len(self.results), len(self._given)
            hint = "one for each image; to leave images out, pass over them in the loop"
            raise UsageError(f"predictor.results has {count} items for {images} images", hint=hint)
        self._given[:] = self.results


class Exporter(State):
    """What callbacks of an export get.

    Attributes:
        file: What was written; None before the end.
        result: The same with what is known of it, as :meth:`segx.model.YOLO.export` returns it.
    """

    word = "exporter"
    options = ExportOptions

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.file: Path | None = None
        self.result: Any = None

    def _run_started(self) -> Iterator[str]:
        yield "on_export_start"

    def _run_ended(self, metrics: Mapping[str, float], result: Any = None) -> Iterator[str]:  # noqa: ARG002
        self.result, self.file = result, None if result is None else result.path
        yield "on_export_end"


_STATES: dict[Mode, type[State]] = {"train": Trainer, "val": Validator, "predict": Predictor, "export": Exporter}
