"""MNN export for segx."""
