"""Benchmark: a model in every format that can be made of it here, each measured in the same way on the same images.

A format that cannot be had here keeps its row, with the reason: a table without it would look complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from segx.console import quieted
from segx.errors import DataError, ModelError, SegxError, UsageError
from segx.flows.benchmark_rows import Benchmark, BenchmarkRow
from segx.flows.calibration import spread
from segx.io.files import write_bytes, write_text
from segx.options.verbs import PRECISION_OPTIONS, BenchmarkOptions, PredictOptions, ValOptions
from segx.plugin.fastest import Timing, backends_on_cpu, choice_of, keep
from segx.plugin.known import FORMATS
from segx.plugin.specs import default_tolerances
from segx.runs import Run, Step, make_run_folder
from segx.runtime import cores
from segx.runtime.load import Others
from segx.sessions import MODEL_FORMAT, Sessions
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.fastest import Choice
    from segx.plugin.interfaces import Dataset, Session
    from segx.plugin.registry import Registry
    from segx.plugin.specs import ExporterSpec
    from segx.structures.batch import SourceImage

logger = logging.getLogger(__name__)

_WARM_UP, _TURNS = 3, 20
"""Runs of one image that are thrown away, and those whose median is the latency."""
_PROVEN = 8
"""Images, besides the drawn ones, on which runtimes of one file are compared."""
_ROUNDS = 2
"""Turns in which they are timed."""
_FEWEST, _LONG = 5, 20.0
"""After so many seconds so many of these do: a large model in a slow runtime takes many seconds an image."""
_COLD = """\
import sys
from segx import YOLO
YOLO(sys.argv[1]).predict(sys.argv[2], verbose=False, device=sys.argv[3] or None, backend=sys.argv[4])
"""
_COLD_SECONDS = 600
_BUSY = 0.1
"""Share of the cores that other programs may take while runtimes are timed against each other."""
_DRAWN = 8
"""Images that are drawn where speed alone is measured and no data set is named."""
_PARTS = ("segx.flows.export", "segx.flows.predict", "segx.flows.val")
"""What says what a verb of its own does; here each is a part of a row."""


def benchmark(model: Artifact, options: BenchmarkOptions, *, name: str = "", registry: Registry) -> Benchmark:
    """Measure a model in every format that is asked for.

    Args:
        model: The model on disk; formats are made from it, or from what it is on the way to.
        options: What was asked for.
        name: What the user named as model.
        registry: The plugins.

    Raises:
        UsageError: A format is not known, or no data set is named and the model remembers none.
        DataError: The data are missing or hold nothing to measure.
        ModelError: The model itself cannot be run.
    """
    name, began = name or str(model.path), time.perf_counter()
    wanted = _wanted(model.format, options, registry)
    info = registry.backends.load(registry.backend_for(model.format)).read_info(model)
    task = registry.tasks.load(info.task)
    dataset, images = _data(info, options, registry)
    folder = make_run_folder(
        "benchmark", task=info.task, project=options.project, name=options.name, exist_ok=options.exist_ok
    )
    run = Run(mode="benchmark", model=name, options=options.as_dict(), folder=folder)
    registry.notify("run_started", run=run)
    rows: list[BenchmarkRow] = []
    try:
        progress = _Progress(total=len(wanted) + 1, began=began)
        images = _on_disk(images, folder) if dataset is None else images
        bench = _Bench(model, options, dataset, images, folder, name, registry, progress)
        for row in bench.rows(wanted):
            rows.append(row)
            figures = {"latency": row.latency, "throughput": row.throughput, **row.metrics}
            step = Step(kind="stage", index=len(rows) - 1, total=len(wanted) + 1, name=row.name, metrics=figures)
            registry.notify("step_ended", run=run, step=step)
            progress.report(row)
        result = Benchmark(rows=tuple(rows), settings=bench.settings(info.imgsz), folder=folder)
        _write(result, task.name)
    except BaseException as error:
        registry.notify("run_failed", run=run, error=error)
        raise
    registry.notify("run_ended", run=run, metrics={f"{row.name}/latency": row.latency for row in result.measured})
    return result


@dataclass
class _Progress:
    """Says what is being done, of how much, and how long it has taken so far: a benchmark takes minutes."""

    total: int
    began: float
    number: int = 1

    def say(self, name: str, what: str) -> None:
        """Say what comes next of a row."""
        minutes, seconds = divmod(int(time.perf_counter() - self.began), 60)
        logger.info("%d of %d: %s: %s (%d:%02d so far)", self.number, self.total, name, what, minutes, seconds)

    def report(self, row: BenchmarkRow) -> None:
        """Say what came of a row, and go on to the next."""
        if row.state == "ok":
            accuracy = f"fitness {row.metrics['fitness']:.4f}, " if row.metrics else ""
            reason = f"; {row.reason}" if row.reason else ""
            said = f"{accuracy}{row.latency:.0f} ms, {row.throughput:.1f} images/s{reason}"
        else:
            said = f"failed: {row.reason}" if row.state == "failed" else "blocked"
        level = logging.WARNING if row.state == "failed" else logging.INFO
        logger.log(level, "%d of %d: %s: %s", self.number, self.total, row.name, said)
        self.number += 1


Wanted = tuple[str, str]
"""A format, and the precision it is wanted in; empty: its usual one."""


def _wanted(given: str, options: BenchmarkOptions, registry: Registry) -> list[Wanted]:
    """Return each format and precision, those that cannot be had here among them.

    Raises:
        UsageError: A format that is asked for is not known.
    """
    known = [name for name in dict.fromkeys([*registry.exporters, *FORMATS]) if name not in {given, MODEL_FORMAT}]
    if options.formats is not None:
        for name in options.formats:
            if name not in {*known, given}:
                registry.exporters.get(name)  # which says what there is
        known = [name for name in known if name in options.formats]
    asked = [word for option, word in PRECISION_OPTIONS.items() if getattr(options, option)]
    wanted: list[Wanted] = []
    for name in known:
        spec = registry.exporters.find(name)
        usual = spec.precisions[0] if spec is not None else ""
        also = [word for word in asked if spec is not None and word in spec.precisions[1:]]
        wanted += [(name, usual), *((name, word) for word in also)]
    return wanted


def _data(
    info: ArtifactInfo, options: BenchmarkOptions, registry: Registry
) -> tuple[Dataset | None, list[SourceImage]]:
    """Return the split that is measured on, and some of its images for speed; these are drawn where it takes no others.

    Raises:
        UsageError: No data set is named, the model remembers none, and more than speed is to be measured.
        DataError: What it remembers is not here; or none of the images can be read.
    """
    from segx.plugin.calibration import synthetic_images

    try:
        return _opened(info.settings, options, registry)
    except (UsageError, DataError) as error:
        if options.data is not None:
            raise
        if not options.val:
            logger.info("speed is measured on drawn images: no data set is named, and the model's own is not here")
            return None, synthetic_images(info.imgsz, min(options.most, _DRAWN))
        raise type(error)(error.message, hint="data=coco8-seg.yaml, or val=false to measure speed alone") from error


def _on_disk(images: Sequence[SourceImage], folder: Path) -> list[SourceImage]:
    """Return drawn images as files in the run's folder: speed is measured from there."""
    import cv2

    written = []
    for image in images:
        path = write_bytes(folder / "images" / f"{image.path}.png", cv2.imencode(".png", image.image)[1].tobytes())
        written.append(dataclasses.replace(image, path=str(path)))
    return written


def _opened(
    remembered: Mapping[str, Any], options: BenchmarkOptions, registry: Registry
) -> tuple[Dataset, list[SourceImage]]:
    """Return the split that is named or remembered, and some of its images."""
    from segx.data.splits import open_splits
    from segx.flows.val import with_remembered
    from segx.io.images import read_image
    from segx.structures.batch import SourceImage

    data = with_remembered(ValOptions(data=options.data), remembered).data
    opened = open_splits(
        str(data), (options.split,), images=options.images, registry=registry, fetch=options.data is not None
    )
    (split,) = opened.splits.values()
    paths = spread(list(split.dataset.paths()), options.most)
    return split.dataset, [SourceImage(image=read_image(path), path=str(path)) for path in paths]


@dataclass(frozen=True)
class _Bench:
    """A running benchmark."""

    model: Artifact
    options: BenchmarkOptions
    dataset: Dataset | None
    images: Sequence[SourceImage]
    folder: Path
    name: str
    registry: Registry
    progress: _Progress

    def settings(self, imgsz: tuple[int, int]) -> dict[str, Any]:
        """Return what the figures are made with, to be shown beside them."""
        import platform

        from segx import __version__

        return {
            "segx": __version__,
            "model": self.name,
            "data": str(self.options.data or ""),
            "split": self.options.split,
            "images": 0 if self.dataset is None else len(self.dataset),
            "imgsz": list(imgsz),
            "speed_images": len(self.images),
            "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
            "python": platform.python_version(),
        }

    def rows(self, wanted: Sequence[Wanted]) -> Iterator[BenchmarkRow]:
        """Yield the model itself, then each format.

        Raises:
            ModelError: The model itself cannot be run.
        """
        yield self._measured(BenchmarkRow(format=self.model.format), self.model)
        for name, precision in wanted:
            row = BenchmarkRow(format=name, precision=precision or "fp32")
            spec = self.registry.exporters.find(name)
            if blocked := self._blocked(name, precision, spec):
                yield dataclasses.replace(row, state="blocked", reason=blocked)
                continue
            try:
                yield self._made(row)
            except UsageError as error:  # refused before any work
                yield dataclasses.replace(row, state="blocked", reason=_said(error))
            except SegxError as error:
                yield dataclasses.replace(row, state="failed", reason=_said(error))

    def _blocked(self, name: str, precision: str, spec: ExporterSpec | None) -> str:
        """Return why a format cannot be made or run here, an empty string if it can."""
        if spec is None:
            return f"pip install {FORMATS[name].exporter}" if FORMATS[name].exporter else "nothing makes it"
        try:
            for link in self.registry.export_chain(name):
                self.registry.require(link)
            self.registry.require(spec, precision=precision)
            self.registry.backend_for(name, device=self.options.device)
        except SegxError as error:
            return _said(error)
        return ""

    def _made(self, row: BenchmarkRow) -> BenchmarkRow:
        """Export, and measure the result."""
        from segx.flows.export import export

        models = self.folder / "models"
        models.mkdir(exist_ok=True)
        known = self.registry.export_options(row.format).names()
        option = next((option for option, word in PRECISION_OPTIONS.items() if word == row.precision), "")
        given: dict[str, Any] = {"output": models, "imgsz": self.options.imgsz}
        if option in known:
            given[option] = True
        if row.precision == "int8" and "data" in known:
            given["data"] = self.options.data
        said, spec = "", self.registry.exporters.get(row.format)
        if spec.fallback and (lacks := spec.missing().get(row.precision)):
            given.update(spec.fallback)
            said = f"made with {', '.join(f'{name}={value}' for name, value in spec.fallback.items())} ({lacks})"
        self.progress.say(row.name, "exporting, and comparing with its source")
        with quieted(*_PARTS):
            made = export(self.model, row.format, given, name=self.name, registry=self.registry)
        found = dataclasses.replace(
            row, export_seconds=made.seconds, parity=made.parity, precision=made.info.precision, reason=said
        )
        return self._measured(found, made.artifact)

    def _measured(self, row: BenchmarkRow, artifact: Artifact) -> BenchmarkRow:
        """Validate it, time one image, time many, and time a new process."""
        how = ValOptions(device=self.options.device).session()
        backend = self.registry.backend_for(artifact.format, device=how.device).name
        with contextlib.closing(Sessions(artifact, self.name, self.registry)) as sessions:
            session = sessions.get(how, backend)
            precision = sessions.info.precision
            metrics = {}
            if self.dataset is not None and self.options.val:
                self.progress.say(row.name, f"validating on {counted(len(self.dataset), 'image')}")
                metrics = self._validate(sessions, how, backend)
            self.progress.say(row.name, f"timing {backend}")
            latency, network = self._latency(session)
            throughput = self._throughput(sessions, backend)
            cold = self._cold(artifact.path, backend) if self.options.cold else None
            usual = Timing(backend=backend, latency=latency, throughput=throughput, cold=cold)
            choice = self._choice(row, artifact, usual, sessions) if session.device == "cpu" else None
        return dataclasses.replace(
            row,
            precision=precision,
            backend=backend,
            path=artifact.path,
            bytes=artifact.size,
            metrics=metrics,
            latency=latency,
            network=network,
            throughput=throughput,
            cold=cold,
            choice=choice,
        )

    def _choice(self, row: BenchmarkRow, artifact: Artifact, usual: Timing, sessions: Sessions) -> Choice | None:
        """Prove and measure the other runtimes of a file, and keep which is fastest: the file is run by it then.

        They take turns, so that a machine that is busy for a while is busy for all; of each its best turn counts. What
        is timed beside other programs is not kept: they take more from who needs more threads.
        """
        others = [spec.name for spec in backends_on_cpu(artifact.format, self.registry) if spec.name != usual.backend]
        if not others:
            return None
        timings = [usual]
        for number, other in enumerate(others, start=1):
            self.progress.say(row.name, f"comparing {other} with {usual.backend}, {number} of {len(others)} runtimes")
            timings.append(self._proven(artifact, other, usual.backend, sessions))
        beside = Others()
        for turn in range(1, _ROUNDS + 1):
            self.progress.say(row.name, f"timing {counted(len(timings), 'runtime')}, turn {turn} of {_ROUNDS}")
            timings = [timing if timing.problem else self._timed(timing, sessions) for timing in timings]
        choice, taken = choice_of(timings, self.options.device, self.registry), beside.cores()
        if taken <= _BUSY * cores():
            keep(artifact, choice)
        else:
            logger.warning(
                "which runtime is fastest is not kept: other programs took %.1f of %s meanwhile; run this again later",
                *(taken, counted(cores(), "core")),
            )
        return choice

    def _proven(self, artifact: Artifact, name: str, usual: str, sessions: Sessions) -> Timing:
        """Return whether another runtime finds in a file what the usual one does.

        What it does to 8-bit numbers is its own way of rounding: only what is as close as full precision counts.
        """
        from segx.flows.parity import describe, prove

        how = ValOptions(device=self.options.device).session()
        allowed = default_tolerances("fp32")["fp32"]
        try:
            session, other = sessions.get(how, usual), sessions.get(how, name)
            task = self.registry.tasks.load(session.info.task)
            proof = prove(session, other, task=task, tolerance=allowed, images=self.images[:_PROVEN])
            problem = "; ".join(proof.problems) or proof.doubt
            cold = self._cold(artifact.path, name) if self.options.cold and not problem else None
        except SegxError as error:
            return Timing(backend=name, problem=_said(error))
        return Timing(backend=name, cold=cold, problem=problem, said=describe(proof.parity))

    def _timed(self, timing: Timing, sessions: Sessions) -> Timing:
        """Return the better of what a runtime took before and what it takes now."""
        latency, _ = self._latency(sessions.get(ValOptions(device=self.options.device).session(), timing.backend))
        return dataclasses.replace(
            timing,
            latency=min(latency, timing.latency or latency),
            throughput=max(timing.throughput, self._throughput(sessions, timing.backend)),
        )

    def _validate(self, sessions: Sessions, how: Any, backend: str) -> dict[str, float]:
        """Return the figures of a validation at one input shape, the same for every format."""
        from segx.flows.val import validate

        options = ValOptions(data=self.options.data, imgsz=self.options.imgsz, rect=False, plots=False, verbose=False)
        session, streams = sessions.with_streams(how, backend)
        found = validate(
            session,
            options,
            registry=self.registry,
            dataset=self.dataset,
            model=self.name,
            streams=streams,
            announced=False,
        )
        return dict(found.results_dict)

    def _latency(self, session: Session) -> tuple[float, float]:
        """Return median milliseconds of one image from pixels to results, and of the network alone."""
        from segx.flows.runner import InputPlan, InputRequest, infer, milliseconds_since

        task = self.registry.tasks.load(session.info.task)
        plan = InputPlan.make(session, InputRequest(self.options.imgsz, 1, rect=False), model=self.name)
        decoding = PredictOptions().decode()
        whole, network = [], []
        begun = time.perf_counter()
        for turn in range(_WARM_UP + _TURNS):
            source = self.images[turn % len(self.images)]
            start = time.perf_counter()
            batch = task.preprocess([source] * plan.batch, plan.size)
            ran = time.perf_counter()
            outputs = infer(session, batch.images)
            network.append(milliseconds_since(ran))
            task.decode(outputs, batch, session.info, decoding)
            whole.append(milliseconds_since(start))
            if turn >= _WARM_UP + _FEWEST and time.perf_counter() - begun > _LONG:
                break
        return median(whole[_WARM_UP:]), median(network[_WARM_UP:])

    def _throughput(self, sessions: Sessions, backend: str) -> float:
        """Return images a second of predict, from files to results."""
        from segx.flows.predict import predict
        from segx.io.sources import open_source

        options = PredictOptions(imgsz=self.options.imgsz, rect=False, device=self.options.device, verbose=False)
        session, streams = sessions.with_streams(options.session(), backend)
        source = open_source([image.path for image in self.images])
        task = self.registry.tasks.load(session.info.task)
        start = time.perf_counter()
        with quieted(*_PARTS):
            results = predict(session, source, options, task=task, notify=_to_nobody, model=self.name, streams=streams)
            count = sum(1 for _ in results)
        return count / (time.perf_counter() - start)

    def _cold(self, path: Path, backend: str) -> float:
        """Return the seconds of a first prediction in a new process; the second of two, whose files are in memory.

        Raises:
            ModelError: The process ends otherwise than well.
        """
        line = [sys.executable, "-c", _COLD, str(path), self.images[0].path, self.options.device or "", backend]
        for _ in range(2):
            start = time.perf_counter()
            try:
                ended = subprocess.run(line, capture_output=True, text=True, timeout=_COLD_SECONDS, check=False)  # noqa: S603
            except subprocess.TimeoutExpired as error:
                raise ModelError(f"{path}: a new process predicts nothing within {_COLD_SECONDS} s") from error
            seconds = time.perf_counter() - start
            if ended.returncode:
                last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
                raise ModelError(f"{path}: cannot be used in a new process ({last})")
        return seconds


def _to_nobody(_event: str, **_facts: Any) -> None:
    """Tell no listener: what is timed is no run of its own."""


def _said(error: SegxError) -> str:
    return " ".join(f"{error.message}; {error.hint}".split()) if error.hint else " ".join(error.message.split())


def _write(result: Benchmark, title: str) -> None:
    """Write table, figures and chart into the run's folder."""
    from segx.flows.benchmark_chart import draw

    write_text(result.folder / "benchmark.csv", result.to_csv())
    write_text(result.folder / "benchmark.json", json.dumps(result.to_dict(), indent=2, default=str) + "\n")
    try:
        chart = draw(result, title=f"{title}: {result.settings['model']} on {result.settings['machine']}")
    except ImportError:
        logger.warning('benchmark.png is not drawn: pip install "segx-core[charts]"')
        return
    (result.folder / "benchmark.png").write_bytes(chart)
