"""Bytes in and out: files, images, video, sources, downloads, what a run writes."""

from __future__ import annotations
