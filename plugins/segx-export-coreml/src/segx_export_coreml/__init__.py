"""Core ML export for segx."""
