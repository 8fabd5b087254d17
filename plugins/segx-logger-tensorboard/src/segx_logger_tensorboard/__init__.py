"""TensorBoard for segx: figures and pictures of training runs."""
