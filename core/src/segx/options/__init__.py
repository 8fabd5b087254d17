"""The options of the verbs: what an option is (``schema``), and those that there are (``verbs``)."""

from __future__ import annotations
