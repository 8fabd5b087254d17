"""Where programs written for other tools look for trainers and predictors: says what there is in their place."""

from __future__ import annotations

msg = (
    "segx has no trainer, validator or predictor classes: YOLO(...).train(), val() and predict() with add_callback(), "
    "or a plugin of your own, do their work; see docs/how-to/come-from-ultralytics.md"
)
raise ImportError(msg)
