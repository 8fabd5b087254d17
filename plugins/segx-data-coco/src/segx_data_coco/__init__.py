"""COCO JSON as ground truth: multi-part polygons, holes, RLE and crowds, read as they are."""

from __future__ import annotations
