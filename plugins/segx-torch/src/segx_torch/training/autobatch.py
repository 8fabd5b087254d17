"""Finds a batch that fills most of a GPU's memory without overflowing it."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from segx.options.schema import image_size
from segx.structures.batch import GREY, TrainBatch
from segx_torch.training.trainer import to_device

if TYPE_CHECKING:
    from torch import nn

    from segx.plugin.training import TrainJob

logger = logging.getLogger("segx.train")

_SHARE = 0.7  # of the memory that is free
_OBJECTS = 12  # per image, in the trial batches


def find_batch(module: nn.Module, job: TrainJob, device: torch.device) -> int:
    """Return how many images of the largest training size take about 70 % of a GPU's free memory.

    Two or more small batches are run forward and backward through a copy, whose statistics nobody needs, and their
    memory is extended along a line.
    """
    module = copy.deepcopy(module).to(device).train()
    criterion = job.criterion(module)
    free, _ = torch.cuda.mem_get_info(device)
    counts, used = [], []
    for count in (1, 2, 4, 8):
        try:
            torch.cuda.reset_peak_memory_stats(device)
            with torch.autocast(device.type, torch.float16, enabled=job.options.amp):
                tensors = to_device(_trial(count, job), device)
                loss, _ = criterion(module(tensors["images"]), tensors)
            loss.backward()
            torch.cuda.synchronize(device)
        except torch.cuda.OutOfMemoryError:
            break
        counts.append(count)
        used.append(torch.cuda.max_memory_allocated(device))
        module.zero_grad(set_to_none=True)
    del module, criterion
    torch.cuda.empty_cache()
    if len(counts) < 2:
        return 1
    slope, base = np.polyfit(counts, used, 1)
    batch = int(max((_SHARE * free - base) / max(slope, 1.0), 1))
    logger.info("batch=-1: %.2f GB free, %.0f MB an image", free / 1e9, slope / 1e6)
    return min(batch, job.images)


def _trial(count: int, job: TrainJob) -> TrainBatch:
    """Return a batch of grey images with objects in them."""
    side, _ = image_size(int(job.options.imgsz * (1 + job.options.multi_scale)))
    ratio = job.options.mask_ratio
    total = count * _OBJECTS
    boxes = np.tile(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), (total, 1))
    if job.options.overlap_mask:
        masks = np.ones((count, side // ratio, side // ratio), np.uint8)
    else:
        masks = np.ones((total, side // ratio, side // ratio), np.uint8)
    return TrainBatch(
        images=np.full((count, 3, side, side), GREY, np.uint8),
        batch_idx=np.repeat(np.arange(count), _OBJECTS),
        classes=np.zeros(total, np.int64),
        boxes=boxes,
        masks=masks,
        overlap=job.options.overlap_mask,
        has_mask=np.ones(total, bool),
        paths=("",) * count,
    )
