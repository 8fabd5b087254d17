"""OpenCV's DNN module as a backend of segx."""
