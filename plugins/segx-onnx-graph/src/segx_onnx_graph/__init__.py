"""ONNX files as material for other formats: read, cut at the raw head, and walked operator by operator."""

from __future__ import annotations

from segx_onnx_graph.cutting import RAW_OUTPUTS, boxes_as_fractions, raw_decoding, raw_form
from segx_onnx_graph.lengths import REPEATS, fill_value, is_number, reshaped, settled, sized, vector
from segx_onnx_graph.reading import Graph, Node, read
from segx_onnx_graph.translator import Translator

__all__ = [
    "RAW_OUTPUTS",
    "REPEATS",
    "Graph",
    "Node",
    "Translator",
    "boxes_as_fractions",
    "fill_value",
    "is_number",
    "raw_decoding",
    "raw_form",
    "read",
    "reshaped",
    "settled",
    "sized",
    "vector",
]
