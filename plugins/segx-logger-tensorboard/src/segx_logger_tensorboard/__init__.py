"""TensorBoard for segx: figures and images of training runs."""
