"""What a run leaves: Parquet files of one row an image, a side table of what could not be read, and a record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segx.errors import DataError, MissingDataError
from segx.plugin.registry import get_registry
from segx.structures.boxes import Boxes
from segx_bulk_ray import places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segx.structures.results import Results

RECORD = "segx-bulk.json"
LAYOUT = "segx-bulk/1"
_KEY = b"segx"

_RLE = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())])
_OBJECT = pa.struct(
    [
        ("class", pa.int32()),
        ("name", pa.string()),
        ("score", pa.float32()),
        ("box", pa.list_(pa.float32())),
        ("rle", _RLE),
        ("area", pa.float64()),
    ]
)
ROWS = pa.schema(
    [
        ("image", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("objects", pa.list_(_OBJECT)),
        ("unreadable", pa.string()),
    ]
)
"""A row for each image; ``unreadable`` says why there is nothing, else it is null."""
_IMAGES = pa.schema(list(ROWS)[:4])
_UNREADABLE = pa.schema([("image", pa.string()), ("reason", pa.string())])


def row_of(results: Results) -> dict[str, Any]:
    """Return the row of an image that has been predicted; scores and boxes are the float32 that were found."""
    height, width = results.orig_shape
    rles = getattr(getattr(results, "masks", None), "rle", [])
    data = results.boxes.data
    objects = []
    for number, (values, area) in enumerate(zip(data.tolist(), results.areas.tolist(), strict=True)):
        score, class_number = values[-2:]
        rle = rles[number] if number < len(rles) else None
        objects.append(
            {
                "class": int(class_number),
                "name": results.names.get(int(class_number), str(int(class_number))),
                "score": score,
                "box": values[:4],
                "rle": rle
                and {"height": rle["size"][0], "width": rle["size"][1], "counts": bytes(rle["counts"]).decode("ascii")},
                "area": area,
            }
        )
    return {"image": results.path, "height": height, "width": width, "objects": objects, "unreadable": None}


def unreadable_row(image: str, reason: str) -> dict[str, Any]:
    """Return the row of an image that could not be read."""
    return {"image": image, "height": None, "width": None, "objects": [], "unreadable": reason}


def write_shard(output: str, index: int, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the rows of a shard: first what could not be read, then the images, whose file says that it is done.

    The names come from the shard alone. One that is done twice, because its worker was lost, is there once.
    """
    metadata = {_KEY: json.dumps(about).encode()}
    failed = [{"image": row["image"], "reason": row["unreadable"]} for row in rows if row["unreadable"] is not None]
    if failed:
        _write(unreadable_file(output, index), pa.Table.from_pylist(failed, _UNREADABLE), metadata)
    found = [row for row in rows if row["unreadable"] is None]
    _write(shard_file(output, index), pa.Table.from_pylist(found, _IMAGES), metadata)


def shard_file(output: str, index: int) -> str:
    """Return where the rows of a shard are."""
    return places.join(output, "images", f"part-{index:09d}.parquet")


def unreadable_file(output: str, index: int) -> str:
    """Return where it is written what of a shard could not be read."""
    return places.join(output, "unreadable", f"part-{index:09d}.parquet")


def done_shards(output: str) -> set[int]:
    """Return the numbers of the shards whose files are complete."""
    names = (name.rpartition("/")[2] for name, _ in places.listed(places.join(output, "images")))
    return {int(name[5:14]) for name in names if name.startswith("part-") and name.endswith(".parquet")}


def _write(address: str, table: pa.Table, metadata: Mapping[bytes, bytes]) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    with places.writing(address) as file:
        file.write(buffer.getvalue())


def read_record(output: str) -> dict[str, Any] | None:
    """Return what a run has noted about itself, or None where there was none.

    Raises:
        DataError: It is damaged, or of a later version.
    """
    address = places.join(output, RECORD)
    if places.kind(address) != "file":
        return None
    try:
        record = json.loads(places.read_bytes(address))
    except (ValueError, DataError):
        record = None
    if not (isinstance(record, dict) and record.get("layout") == LAYOUT and isinstance(record.get("settings"), dict)):
        raise DataError(f"{address} is damaged, or of another version", hint="write into a new output=")
    return record


def _tables(output: str, folder: str) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
    parts = [name for name, _ in places.listed(places.join(output, folder)) if "/part-" in name]
    for address in parts:
        if not address.endswith(".parquet"):
            continue
        system, path = places.resolve(address)
        try:
            with system.open_input_file(path) as file:
                table = pq.read_table(file)
            about = json.loads((table.schema.metadata or {})[_KEY])
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{address} cannot be read: {' '.join(str(error).split())}") from None
        yield table, about


def rows_of(output: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each row of a run, and what its file says of model and settings."""
    for table, about in _tables(output, "images"):
        for batch in table.to_batches(max_chunksize=256):
            for row in batch.to_pylist():
                yield row, about


def read(output: str) -> Iterator[Results]:
    """Yield the results of each image of a run, in the order of its source.

    Args:
        output: What ``segx bulk predict`` was told to write: a folder or an address.

    Raises:
        DataError: There is no such run, or a file of it is damaged.
    """
    output = places.absolute(output)
    if read_record(output) is None:
        raise MissingDataError(f"{output} holds no results of segx bulk", hint="read what output= named")
    for row, about in rows_of(output):
        yield results_of(row, about)


def read_unreadable(output: str) -> Iterator[tuple[str, str]]:
    """Yield address and reason of each image that could not be read.

    Raises:
        DataError: A file of the run is damaged.
    """
    for table, _ in _tables(places.absolute(output), "unreadable"):
        for row in table.to_pylist():
            yield row["image"], row["reason"]


def results_of(row: Mapping[str, Any], about: Mapping[str, Any]) -> Results:
    """Return a row as the type of results its task has."""
    shape = (row["height"], row["width"])
    objects = row["objects"]
    data = np.array([[*item["box"], item["score"], item["class"]] for item in objects], np.float32).reshape(-1, 6)
    names = {int(number): name for number, name in about["names"].items()}
    parts: dict[str, Any] = {"boxes": Boxes(data, shape)}
    if objects and all(item["rle"] is not None for item in objects):
        from segx.structures.masks import Masks  # noqa: PLC0415 - boxes alone need none

        items = [
            {"size": [item["rle"]["height"], item["rle"]["width"]], "counts": item["rle"]["counts"]} for item in objects
        ]
        parts["masks"] = Masks.from_rle(items, shape)
    return get_registry().tasks.load(about["task"]).results(path=row["image"], shape=shape, names=names, **parts)
