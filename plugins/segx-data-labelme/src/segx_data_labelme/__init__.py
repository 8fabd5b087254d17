"""labelme and X-AnyLabeling as ground truth: a JSON of shapes beside each image."""

from __future__ import annotations
