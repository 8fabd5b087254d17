"""Instance segmentation for segx: letterbox, decoding, NMS, masks and drawing, without torch."""
