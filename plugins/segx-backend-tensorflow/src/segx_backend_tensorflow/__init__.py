"""Runs SavedModels and frozen TensorFlow graphs in segx, without torch."""
