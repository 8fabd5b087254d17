"""What every runtime keeps, TensorFlow keeps with SavedModels and frozen graphs."""

from __future__ import annotations

from segx.testing import BackendContract


class TestSavedModel(BackendContract):
    distribution = "segx-backend-tensorflow"
    name = "tensorflow"
    format = "saved_model"


class TestFrozenGraph(BackendContract):
    distribution = "segx-backend-tensorflow"
    name = "tensorflow"
    format = "pb"
