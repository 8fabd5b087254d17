"""Draws data sets for segx: shaded, textured, overlapping objects with exact masks."""
