"""Bulk prediction: a source divided into shards, a task of Ray for each, a file for each."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import segx
from segx.console import progress
from segx.errors import DataError, UsageError
from segx.options.verbs import PredictOptions
from segx.plugin.fastest import measured
from segx.plugin.registry import get_registry
from segx.runtime import cores, device_kind
from segx.words import counted
from segx_bulk_ray import cluster, output, places
from segx_bulk_ray.sources import divide, fingerprint
from segx_bulk_ray.worker import Work, do_shard, hash_of, pack, predicted

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator, Mapping, Sequence

    import ray.data

    from segx_bulk_ray.sources import Shard
    from segx_bulk_ray.worker import Counts

logger = logging.getLogger(__name__)

SETTINGS = (
    *("conf", "iou", "max_det", "classes", "agnostic_nms"),
    *("imgsz", "rect", "batch", "device", "half", "backend", "threads"),
)
"""Options of ``segx predict`` that mean something here."""
FORMATS = ("parquet", "coco")
_SHARD = 256
_RETRIES = 10
"""Times that a shard is begun again because its worker or machine was lost."""
_OF_RAY = {"num_cpus": "CPU", "num_gpus": "GPU"}
"""What a task needs, to what a machine has, in Ray's names."""
_SHARD_ROW = pa.schema(
    [("index", pa.int64()), ("kind", pa.string()), ("items", pa.list_(pa.string())), ("group", pa.int64())]
)


def _backend(path: Path, options: PredictOptions) -> str:
    """Return the runtime that this machine takes: all others take the same, or rows would differ in the last digits."""
    registry = get_registry()
    artifact = registry.artifact(path)
    choice = None if options.half else measured(artifact, registry, device=options.device)
    return choice.fastest.backend if choice else registry.backend_for(artifact.format, device=options.device).name


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        output: Where it is.
        images: Predicted now.
        objects: Found in them.
        unreadable: Images that could not be read.
        shards: Done now.
        skipped: Shards that an earlier run had done.
    """

    output: str
    images: int = 0
    objects: int = 0
    unreadable: int = 0
    shards: int = 0
    skipped: int = 0


def predict(
    model: str | os.PathLike[str],
    source: str | Sequence[str],
    *,
    workers: int | None = None,
    address: str | None = None,
    shard: int = _SHARD,
    **settings: Any,
) -> ray.data.Dataset:
    """Return a ``ray.data.Dataset`` of one row for each image, to be composed with others; nothing runs yet.

    A row is ``image`` (its address), ``height``, ``width``, ``objects`` (a list of class, name, score, box, rle, area)
    and ``unreadable`` (why there is nothing, else None). Where this process has not joined Ray it starts one, which
    ends with the process; ``segx_bulk_ray.write`` ends it itself.

    Args:
        model: A model file or folder of any installed format.
        source: See :func:`segx_bulk_ray.sources.divide`.
        workers: Shards predicted at once; default: the cores of this machine, in a cluster as many as it has room for.
        address: Of a Ray cluster.
        shard: Images for each task.
        settings: Of ``segx predict``: conf, iou, max_det, classes, agnostic_nms, imgsz, rect, batch, device,
            half, backend, threads (1 for each worker).

    Raises:
        UsageError: A setting is unknown or out of range, or there is no cluster at the address, or no GPU.
        DataError: The source is not there, or holds nothing.
        ModelError: The model cannot be read.
    """
    plan = _Plan.make(model, source, shard=shard, settings=settings, workers=workers)
    import ray  # noqa: PLC0415 - after what can be refused

    ours = not ray.is_initialized()
    if ours:
        cluster.load()
        cluster.start(address, cpus=plan.cpus)
    shared = not ours or address is not None
    plan.seek_room(shared=shared)
    return plan.dataset(plan.work(shared=shared))


def write(
    model: str | os.PathLike[str],
    source: str | Sequence[str],
    output: str | os.PathLike[str],
    *,
    workers: int | None = None,
    address: str | None = None,
    shard: int = _SHARD,
    resume: bool = False,
    format: str = "parquet",  # noqa: A002 - the word of the command line
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Predict a source into a folder or an object store; each image is there exactly once, whatever was lost meanwhile.

    Args:
        model: As for :func:`predict`, and so are the others that are not named here.
        source: As well.
        output: The folder or address to write; must not hold anything, but for ``resume``.
        workers: As for :func:`predict`.
        address: As well.
        shard: Images for each task and file.
        resume: Go on with a run that was ended: the shards that are complete are left as they are.
        format: ``"parquet"``, or ``"coco"`` for a ``predictions.json`` beside the Parquet files.
        quiet: Show no bar.
        settings: As for :func:`predict`.

    Raises:
        UsageError: A setting is wrong, the run to go on with is of another model, source or setting; or no GPU.
        DataError: The source is not there, or the output holds something already or cannot be written.
        ModelError: The model cannot be read.
        SegxError: The workers have failed.
    """
    if format not in FORMATS:
        raise UsageError(f"format={format} is not one of {', '.join(FORMATS)}")
    plan = _Plan.make(model, source, shard=shard, settings=settings, workers=workers)
    target = places.absolute(output)
    begun = _begun(target, plan, resume=resume)
    done = begun or set()
    todo = [index for index in range(len(plan.shards)) if index not in done]
    counts: Counter[str] = Counter()
    if todo:
        known = [plan.shards[index].images for index in todo]
        total = None if None in known else sum(count or 0 for count in known)
        with cluster.joined(address, cpus=plan.cpus) as shared:
            plan.seek_room(shared=shared)
            if begun is None:
                _begun(target, plan, resume=False)  # somebody else may have begun there while Ray started
                _note(target, plan)
            with (
                progress(total, "predicting", shown=not quiet) as bar,
                closing(plan.run(plan.work(shared=shared, target=target), todo)) as ended,
            ):
                for found in ended:
                    counts.update(shards=1, **vars(found))
                    bar(found.images + found.unreadable)
    if format == "coco":
        _write_coco(target)
    return Report(output=target, skipped=len(done), **counts)


@dataclass(frozen=True)
class _Plan:
    """What is to be done, checked."""

    path: Path
    about: Mapping[str, Any]
    settings: Mapping[str, Any]
    shards: Sequence[Shard]
    workers: int
    limit: int | None

    @classmethod
    def make(
        cls,
        model: str | os.PathLike[str],
        source: str | Sequence[str],
        *,
        shard: int,
        settings: Mapping[str, Any],
        workers: int | None,
    ) -> _Plan:
        given = {name: value for name, value in settings.items() if value is not None}
        if stray := [name for name in given if name not in SETTINGS]:
            raise UsageError(f"bulk predict has no option {stray[0]!r}", hint=f"settings: {', '.join(SETTINGS)}")
        for name, value in (("shard", shard), ("workers", workers)):
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} is less than 1")
        options = PredictOptions.parse({"threads": 1, **given})
        chosen = {name: getattr(options, name) for name in SETTINGS if hasattr(options, name)}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        opened = segx.YOLO(model)
        if opened.path is None:
            raise UsageError(f"{model} has no weights", hint="bulk prediction needs a model file")
        path = Path(opened.path).absolute()
        chosen.setdefault("backend", _backend(path, options))
        about = {
            "layout": output.LAYOUT,
            "segx": segx.__version__,
            "model": path.name,
            "sha256": hash_of(path),
            "task": opened.task,
            "names": {str(number): name for number, name in opened.names.items()},
            "settings": json.loads(json.dumps(chosen, default=str)),
        }
        return cls(path, about, chosen, divide(source, size=shard), workers or cores(), workers)

    @property
    def cpus(self) -> int:
        """Of a cluster of our own: a worker counts as the threads of its network."""
        return self.workers * int(self.settings["threads"])

    def record(self) -> dict[str, Any]:
        """Return what is noted in the output, and has to be the same when a run goes on."""
        return {**self.about, "shards": len(self.shards), "source": fingerprint(self.shards)}

    def work(self, *, shared: bool, target: str = "") -> Work:
        """Return what is sent to the workers; needs Ray, to send the model where machines may not see it."""
        import ray  # noqa: PLC0415 - as it says

        packed = ray.put(pack(self.path)) if shared else None
        return Work(str(self.path), packed, self.about["sha256"], self.settings, target, self.about)

    def dataset(self, work: Work) -> ray.data.Dataset:
        """Return the data set of the rows of all shards, each a block and so a task of its own."""
        import ray.data  # noqa: PLC0415 - as above

        blocks = [pa.Table.from_pylist([shard.row(index)], _SHARD_ROW) for index, shard in enumerate(self.shards)]
        return ray.data.from_arrow(blocks).map_batches(
            predicted,  # type: ignore[arg-type]  # pyarrow tells mypy nothing of its tables
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"work": work},
            concurrency=self.limit,
            max_retries=_RETRIES,
            **self._needs(),
        )

    def run(self, work: Work, indices: Sequence[int]) -> Generator[Counts]:
        """Predict and write the shards of some indices; yield what each came to, as it ends.

        Tasks of Ray itself: nothing of a data set is wanted where shards become files, and its executor, statistics
        and scaling took 3 % of two cores. And not actors: a task that is lost with its machine begins again wherever
        there is room, and a worker keeps the model from task to task all the same.

        Raises:
            SegxError: The workers have failed.
        """
        import ray  # noqa: PLC0415 - as above

        task = ray.remote(max_retries=_RETRIES, **self._needs())(do_shard)
        sent, todo = ray.put(work), iter(indices)
        running: set[ray.ObjectRef[Counts]] = set()
        try:
            while True:
                room = self._at_once(shared=work.packed is not None) - len(running)
                running |= {task.remote(index, self.shards[index], sent) for index in islice(todo, max(room, 0))}
                if not running:
                    return
                ray.wait(list(running), num_returns=1)
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
                running.difference_update(ended)
                yield from ray.get(ended)
        except (ray.exceptions.RayError, RuntimeError) as error:
            raise cluster.words_of(error) from error
        finally:
            for one in running:
                ray.cancel(one, force=True)

    def _needs(self) -> dict[str, Any]:
        """Return what Ray keeps free for a shard."""
        needs: dict[str, Any] = {"num_cpus": int(self.settings["threads"])}
        if device_kind(str(self.settings.get("device") or "cpu")) == "cuda":
            needs["num_gpus"] = 1
        return needs

    def seek_room(self, *, shared: bool) -> None:
        """Say so where no machine has room for a shard: Ray waits for one in silence, for ever if need be.

        Args:
            shared: In a cluster that others use too, which may grow.

        Raises:
            UsageError: In a cluster of our own, which does not.
        """
        import ray  # noqa: PLC0415 - as above

        needs = {_OF_RAY[what]: of for what, of in self._needs().items()}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if any(all(machine.get(name, 0) >= of for name, of in needs.items()) for machine in machines):
            return
        wanted = " and ".join(counted(of, name) for name, of in needs.items())
        if not shared:
            given = self.settings.get("device")
            raise UsageError(f"device={given}: Ray finds no GPU on this machine", hint="device=cpu")
        logger.warning("no machine of the cluster has %s: waiting for one", wanted)

    def _at_once(self, *, shared: bool) -> int:
        """Return how many shards Ray is given: as many again as it can run, so that the next waits where it will run.

        Args:
            shared: In a cluster that others use too, where ``workers`` says how many may run.
        """
        import ray  # noqa: PLC0415 - as above

        if shared and self.limit is not None:
            return self.limit
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]  # machines come and go
        return 2 * max(1, min(int(there.get(_OF_RAY[what], 0) // of) for what, of in self._needs().items()))


def _begun(target: str, plan: _Plan, *, resume: bool) -> set[int] | None:
    """Return the shards that are there of the run that this one goes on with, or None where nothing is.

    Raises:
        DataError: The output holds something else, or a run that is not to be gone on with.
        UsageError: It is of another run.
    """
    before = output.read_record(target)
    if before is None:
        if places.kind(target) == "file" or places.listed(target):
            raise DataError(f"{target} holds something already", hint="name a new output=")
        return None
    if not resume:
        raise DataError(f"{target} holds a run already", hint="resume=true goes on with it; or name a new output=")
    record = plan.record()
    words = {"sha256": "another model", "source": "another source, or shard="}
    other = [said for name, said in words.items() if before.get(name) != record[name]]
    then, now = before.get("settings", {}), record["settings"]
    other += [
        f"{name}={then.get(name, 'unset')} (now {now.get(name, 'unset')})"
        for name in sorted(then | now)
        if then.get(name) != now.get(name)
    ]
    if other:
        said = ", ".join(other)
        raise UsageError(f"{target} was begun with {said}", hint="the same as then, or a new output=")
    return output.done_shards(target)


def _note(target: str, plan: _Plan) -> None:
    """Note in the output which run it holds: when all that can be refused has been.

    Raises:
        DataError: It cannot be written.
    """
    with places.writing(places.join(target, output.RECORD)) as file:
        file.write(json.dumps(plan.record(), indent=1).encode())


def _write_coco(target: str) -> None:
    """Write what was found as one COCO data set; read and written piece by piece, for it may not fit into memory."""
    names: Mapping[str, str] = (output.read_record(target) or {})["names"]
    with places.writing(places.join(target, "predictions.json")) as file:

        def listed(name: str, items: Iterator[Mapping[str, Any]]) -> None:
            file.write(f'"{name}": ['.encode())
            for number, item in enumerate(items):
                file.write((",\n" if number else "\n").encode() + json.dumps(item).encode())
            file.write(b"]")

        file.write(b"{")
        listed("images", _coco_images(target))
        file.write(b",\n")
        listed("annotations", _coco_annotations(target))
        file.write(b",\n")
        listed("categories", ({"id": int(number), "name": name} for number, name in names.items()))
        file.write(b"}\n")


def _coco_images(target: str) -> Iterator[dict[str, Any]]:
    for number, (row, _) in enumerate(output.rows_of(target), 1):
        yield {"id": number, "file_name": row["image"], "height": row["height"], "width": row["width"]}


def _coco_annotations(target: str) -> Iterator[dict[str, Any]]:
    count = 0
    for number, (row, _) in enumerate(output.rows_of(target), 1):
        for item in row["objects"]:
            count += 1
            x0, y0, x1, y1 = item["box"]
            found = {"id": count, "image_id": number, "category_id": item["class"], "score": item["score"]}
            found |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": item["area"], "iscrowd": 0}
            if (rle := item["rle"]) is not None:
                found["segmentation"] = {"size": [rle["height"], rle["width"]], "counts": rle["counts"]}
            yield found
