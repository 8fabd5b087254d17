"""TensorFlow SavedModel export for segx."""
