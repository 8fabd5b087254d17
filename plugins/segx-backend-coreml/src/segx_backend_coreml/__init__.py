"""Core ML models in segx: run by Core ML on a Mac, by NumPy anywhere."""
