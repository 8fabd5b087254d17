"""Check requirements without importing what they name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from segx.plugin.installed import find
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib import metadata

    from packaging.requirements import Requirement

ALTERNATIVE = " | "
"""Between requirements of which one is enough: ``"onnxruntime>=1.20 | onnxruntime-gpu>=1.20"``."""


class Unmet(Record):
    """A requirement that is not met.

    Attributes:
        requirement: What is needed, as ``pip install`` takes it; of several alternatives the first.
        found: The version that is installed, or None.
        problem: Why it cannot be checked, for a text that is no requirement.
    """

    requirement: str
    found: str | None = None
    problem: str = ""

    @property
    def reason(self) -> str:
        """What is needed and what was found: ``"tensorrt>=10, found none"``."""
        return self.problem or f"{self.requirement}, found {self.found or 'none'}"


def unmet(requirements: Iterable[str]) -> tuple[Unmet, ...]:
    """Return those of the PEP 508 requirements that this environment does not meet.

    A requirement whose marker does not hold here is met. An entry may hold alternatives, separated by
    :data:`ALTERNATIVE`, of which one has to be met. Nothing is imported: the installed metadata are read.
    """
    return tuple(problem for entry in requirements if (problem := _check(entry)) is not None)


def installed(requirements: Iterable[str]) -> list[str]:
    """Return name and version of what is installed of the requirements, alternatives among them: ``"numpy 2.4"``."""
    texts = (text for entry in requirements for text in entry.split(ALTERNATIVE))
    found = (find(name[0]) for text in texts if (name := _NAME.match(text.strip())))
    return [f"{item.name} {item.version}" for item in found if item is not None]


def modules(entry: str) -> list[str]:
    """Return the names of the top-level modules to import for a requirement that is met."""
    from importlib import metadata

    from packaging.requirements import Requirement

    text = next((text.strip() for text in entry.split(ALTERNATIVE) if _check_one(text.strip()) is None), "")
    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return []
    distribution = metadata.distribution(requirement.name)
    listed = (distribution.read_text("top_level.txt") or "").split()
    files = [file for file in distribution.files or () if file.suffix in {".py", ".so", ".pyd"}]
    tops = (file.parts[0] if len(file.parts) > 1 else file.name.partition(".")[0] for file in files)
    found = sorted(filter(str.isidentifier, dict.fromkeys([*listed, *tops])), key=lambda name: name.startswith("_"))
    same = [name for name in found if name.lower() == requirement.name.lower().replace("-", "_")]
    return same or found[:1]


def _check(entry: str) -> Unmet | None:
    problems = []
    for text in entry.split(ALTERNATIVE):
        problem = _check_one(text.strip())
        if problem is None:
            return None
        problems.append(problem)
    # An alternative that is there in a wrong version says more than one that is not there at all.
    return next((problem for problem in problems if problem.found), problems[0])


_AT_LEAST = re.compile(r"([A-Za-z0-9][\w.-]*?)\s*>=\s*(\d+(?:\.\d+)*)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


def _plainly_met(text: str) -> bool:
    """Return True if a release is installed that ``name>=1.2`` is happy with.

    It is what nearly every requirement comes to. Whatever else there is, a False too, is for ``packaging`` to judge,
    which takes 20 ms to import.
    """
    wanted = _AT_LEAST.fullmatch(text)
    distribution = find(wanted[1]) if wanted else None
    if wanted is None or distribution is None:
        return False
    try:
        version = distribution.about().get("Version", "")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(_RELEASE.fullmatch(version)) and _numbers(version) >= _numbers(wanted[2])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _check_one(text: str) -> Unmet | None:
    if _plainly_met(text):
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return Unmet(requirement=text, problem=f"{text!r}, which is no requirement ({str(error).splitlines()[0]})")
    return _find_unmet(requirement, seen=set())


def _find_unmet(requirement: Requirement, *, seen: set[tuple[str, frozenset[str]]]) -> Unmet | None:
    """Return the first thing missing of a requirement and of the extras it asks for."""
    from importlib import metadata

    if requirement.marker is not None and not requirement.marker.evaluate():
        return None
    if requirement.url is not None:
        wanted = f"{requirement.name} @ {requirement.url}"
    else:
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        wanted = f"{requirement.name}{extras}{requirement.specifier}"
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return Unmet(requirement=wanted)
    try:
        version = distribution.version
        fits = requirement.specifier.contains(version, prereleases=True)
    except Exception as error:  # noqa: BLE001 - whatever an installer left behind: no text, no version
        return Unmet(requirement=wanted, found=f"one whose metadata cannot be read ({type(error).__name__})")
    if not fits:
        return Unmet(requirement=wanted, found=version)
    return _unmet_extras(distribution, requirement.extras, seen=seen)


def _unmet_extras(
    distribution: metadata.Distribution, extras: set[str], *, seen: set[tuple[str, frozenset[str]]]
) -> Unmet | None:
    from packaging.requirements import Requirement

    key = (distribution.name, frozenset(extras))
    if not extras or key in seen:
        return None
    seen.add(key)
    for text in distribution.requires or ():
        part = Requirement(text)
        marker = part.marker
        if marker is None or not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        part.marker = None
        problem = _find_unmet(part, seen=seen)
        if problem is not None:
            return problem
    return None
