"""Runs ncnn models in segx, without torch."""
