"""YOLOv8-seg models n, s, m, l, x for segx, built from YAML."""
