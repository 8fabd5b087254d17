"""The verbs: the order of events and hooks; no mathematics."""

from __future__ import annotations
