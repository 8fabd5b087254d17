"""What is done with data sets besides training and validating: check, convert, split, show."""

from __future__ import annotations

from segx.flows.data.check import DataReport, Finding, check
from segx.flows.data.convert import Conversion, convert
from segx.flows.data.show import show
from segx.flows.data.split import Division, split

__all__ = ["Conversion", "DataReport", "Division", "Finding", "check", "convert", "show", "split"]
