"""Colours for classes and instances: stable, distinct, equally strong to the eye.

Hues are spread by the golden angle, so that any first n of them lie far apart, and taken in OKLCH (B. Ottosson, "A
perceptual color space for image processing", 2020), where equal steps look equal.
"""

from __future__ import annotations

from functools import cache
from math import cos, radians, sin

Color = tuple[int, int, int]
"""Blue, green, red, 0..255."""

_GOLDEN_ANGLE = 137.50776
_FIRST_HUE = 25.0
_LIGHTNESS = (0.70, 0.80, 0.63, 0.75, 0.58)  # numbers whose hues nearly meet, 8, 13 or 21 apart, differ in it
_CHROMA = 0.21


@cache
def color(number: int) -> Color:
    """Return the colour of a class or instance number."""
    hue = radians((_FIRST_HUE + number * _GOLDEN_ANGLE) % 360)
    lightness = _LIGHTNESS[number % len(_LIGHTNESS)]
    chroma = _CHROMA
    while True:  # less colourful until a screen can show it
        red, green, blue = _oklab_to_linear(lightness, chroma * cos(hue), chroma * sin(hue))
        if min(red, green, blue) >= 0 and max(red, green, blue) <= 1:
            return _encode(blue), _encode(green), _encode(red)
        chroma *= 0.97


def text_color(background: Color) -> Color:
    """Return near black or white, whichever is easier to read on a background."""
    blue, green, red = (_decode(channel) for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (24, 20, 20) if luminance > 0.3 else (255, 255, 255)


def _oklab_to_linear(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _encode(linear: float) -> int:
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


def _decode(channel: int) -> float:
    value = channel / 255
    return float(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
