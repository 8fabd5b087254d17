"""Reads what is asked of OpenVINO's IR before it is opened: its XML, without weights and without OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from segx.errors import ModelError
from segx.io.files import open_regular
from segx.plugin.base import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from xml.etree.ElementTree import Element

SUFFIX, WEIGHTS_SUFFIX = ".xml", ".bin"


def graph_file(model: Path) -> Path:
    """Return the XML of a model: itself, or the one within a folder.

    Raises:
        ModelError: The folder holds none or several, or there are no weights beside it.
    """
    if model.is_dir():
        found = sorted(file for file in model.iterdir() if file.suffix == SUFFIX and not file.name.startswith("._"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ModelError(f"{model}: is damaged or no OpenVINO model (graphs ending in {SUFFIX} in it: {names})")
        model = found[0]
    weights = weights_file(model)
    if model.exists() and not weights.is_file():
        msg = f"{model}: is damaged: its weights, {weights.name}, do not lie beside it"
        raise ModelError(msg, hint="copy the whole folder, or export it again")
    return model


def weights_file(file: Path) -> Path:
    """Return the file that holds the weights of a graph: an ONNX file's are in itself."""
    return file.with_suffix(WEIGHTS_SUFFIX) if file.suffix.lower() == SUFFIX else file


def read(file: Path) -> tuple[Mapping[str, Any], Graph]:
    """Return the metadata that travel in the XML, and what the graph says of its input and outputs.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is no IR; ElementTree.ParseError, which is a SyntaxError, likewise.
        ModelError: It takes something else than images.
    """
    inputs: list[Element] = []
    results: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    metadata: dict[str, Any] = {}
    depth = 0
    with open_regular(file) as content:
        for event, element in ET.iterparse(content, events=("start", "end")):  # noqa: S314 - expat bounds entities
            if event == "start":
                depth += 1
                if depth == 1 and element.tag != "net":
                    raise ValueError(f"its root is <{element.tag}>, not <net>")
                continue
            depth -= 1
            if depth == 2 and element.tag == "layer":
                names |= _port_names(element)
                if element.get("type") == "Parameter":
                    inputs.append(element)
                elif element.get("type") == "Result":
                    results[element.get("id", "")] = element.get("output_names", "")
                else:
                    element.clear()
            elif depth == 2 and element.tag == "edge" and not results.get(element.get("to-layer", ""), "-"):
                results[element.get("to-layer", "")] = names.get(
                    (element.get("from-layer", ""), element.get("from-port", "")), ""
                )
            elif depth == 1 and element.tag == "rt_info":
                metadata = _metadata(element)
    if not inputs:
        raise ValueError("it has no input")
    outputs = [name.partition(",")[0] for name in results.values()]
    return metadata, Graph(input=_shape(inputs, file), outputs=outputs if all(outputs) else ())


def _port_names(layer: Element) -> dict[tuple[str, str], str]:
    """Return layer and port to the names of the tensors that a layer gives; there, older files name the outputs."""
    ports = layer.findall("output/port")
    return {(layer.get("id", ""), port.get("id", "")): port.get("names", "") for port in ports if port.get("names")}


def _shape(inputs: list[Element], file: Path) -> tuple[int | None, ...]:
    """Return the lengths of the images that the only input takes; None where any length will do."""
    if len(inputs) != 1:
        names = ", ".join(str(item.get("name")) for item in inputs)
        raise ModelError(f"{file}: has {len(inputs)} inputs ({names}); segx runs models with one")
    data = inputs[0].find("data")
    said, kind = ("", "") if data is None else (data.get("shape", ""), data.get("element_type", ""))
    lengths = [length.strip() for length in said.split(",")]
    shape = tuple(int(length) if length.isdecimal() else None for length in lengths)
    if len(shape) != 4 or shape[1] not in {3, None} or kind not in {"f32", "f16"}:
        msg = f"{file}: its input does not take float images Nx3xHxW but {kind or 'unknown'} {said or 'of no shape'}"
        raise ModelError(msg, hint="export the model again with segx export format=openvino")
    return shape


def _metadata(info: Element) -> dict[str, Any]:
    """Return what a converter has taken over from the ONNX file it read, which is what segx writes too."""
    framework = info.find("framework")
    if framework is None:
        return {}
    return {_key(item): item.get("value") for item in framework if item.get("value") is not None}


def _key(item: Element) -> str:
    return (item.get("name") if item.tag == "info" else None) or item.tag
