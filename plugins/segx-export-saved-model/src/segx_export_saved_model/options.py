"""The options SavedModel export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import ExportOptions


class SavedModelOptions(ExportOptions):
    """Options of ``format=saved_model``."""

    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
    keras: bool = option(False, "also write the model for Keras, as model.keras in the folder")
