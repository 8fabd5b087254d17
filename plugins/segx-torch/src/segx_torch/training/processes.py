"""The processes of a run, and where Lightning Fabric has to be helped: each such place with its reason."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from segx.errors import UsageError
from segx.runtime.pytorch import resolve_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.options.verbs import TrainOptions

_WAIT = dt.timedelta(hours=2)  # how long processes wait for the first one to validate
_GRACE = 5  # seconds in which a helper that fails is ended by the first process, if that fails too
_KEPT: list[Any] = []  # the last work of process groups that are no more; see end_helpers


def make_fabric(options: TrainOptions) -> Fabric:
    """Return devices, precision and processes, launched.

    ``device=0,1`` or ``accelerator=cpu devices=2`` start one process each, which run the same command; under
    ``torchrun`` its processes are taken as they are, and their number is torchrun's.

    Raises:
        UsageError: A device is not there.
    """
    accelerator, devices = _devices(options)
    nodes = options.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif nodes > 1:
        hint = f"torchrun --nnodes {nodes} --nproc-per-node {options.devices or 1} -m segx_cli segment train ..."
        raise UsageError(f"num_nodes={nodes}: several machines are started by torchrun, on each of them", hint=hint)
    count = len(devices) if isinstance(devices, list) else devices
    several = count * nodes > 1
    half = options.amp and accelerator == "cuda"
    if options.deterministic and accelerator == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS varies without it
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it tells is told by the trainer
    # The usual limit is half an hour, and the others wait while the first process validates.
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=_WAIT) if several else "auto",
        precision="16-mixed" if half else "32-true",
    )
    fabric.launch()
    return fabric


@contextlib.contextmanager
def failing_together(fabric: Fabric) -> Iterator[None]:
    """When the first process fails, end its helpers, which would wait for it; it alone speaks.

    A helper that fails waits for that first: most failures are the same on all. Failing alone it speaks, and ends, and
    Lightning or torchrun ends the others.
    """
    try:
        yield
    except BaseException:
        if fabric.global_rank:
            time.sleep(_GRACE)
            raise
        # Lightning keeps those it has started here and says so nowhere; torchrun's processes are not among them.
        helpers = getattr(fabric.strategy.launcher, "procs", [])
        for helper in helpers:
            helper.kill()
            helper.wait()
        if helpers:
            helpers.clear()  # Lightning watches them, and would end this process for their sake
            _forget_processes()
        raise


def end_helpers(fabric: Fabric) -> None:
    """End the processes that only shared the work; the first one goes on alone, as if it had been alone all the time.

    The helpers leave without a farewell: torch's process group can wait for itself for ever when Python takes it apart
    (its thread needs the interpreter's lock to let go of its last piece of work, while the destructor, holding the
    lock, waits for the thread). The first process keeps that piece of work, so that its thread need not let go of it.
    """
    if fabric.world_size == 1:
        return
    last_work = torch.distributed.barrier(async_op=True)
    last_work.wait()
    if fabric.global_rank:
        if torch.distributed.get_backend() == "nccl":  # where it has to be taken apart by all
            torch.distributed.destroy_process_group()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by who started the process
                stream.flush()
        os._exit(0)
    _KEPT.append(last_work)
    torch.distributed.destroy_process_group()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _forget_processes()


def _forget_processes() -> None:
    """Remove what Lightning has set for the helpers; a further run starts its own.

    It leaves these variables behind, and would take a second run for a helper of the first.
    """
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _devices(options: TrainOptions) -> tuple[str, list[int] | int]:
    """Return Lightning's name of the accelerator and the devices of it."""
    names = [name.strip() for name in (options.device or "").strip("[]() ").split(",") if name.strip()]
    if len(names) > 1:
        found = [resolve_device(name) for name in names]
        if any(device.type != "cuda" for device in found) or len(set(found)) < len(found):
            raise UsageError(f"device={options.device}: several devices are different GPUs", hint="device=0,1")
        if options.devices not in {None, len(found)}:
            raise UsageError(f"device={options.device} are {len(found)} devices, not devices={options.devices}")
        return "cuda", [device.index or 0 for device in found]
    device = resolve_device(names[0] if names else options.accelerator)
    if device.type == "cuda" and names and names[0] != "cuda":
        if options.devices not in {None, 1}:
            hint = f"device={','.join(map(str, range(options.devices or 1)))}"
            raise UsageError(f"device={options.device} is one device, not devices={options.devices}", hint=hint)
        return "cuda", [device.index or 0]
    if device.type == "cuda" and (options.devices or 1) > torch.cuda.device_count():
        raise UsageError(f"devices={options.devices}: there are {torch.cuda.device_count()} GPUs here")
    return device.type, options.devices or 1


def scaler_state(fabric: Fabric) -> Mapping[str, Any]:
    """Return the state of the loss scaler, empty in full precision: Fabric's own checkpoints are the only other way."""
    state: Mapping[str, Any] = fabric.strategy.precision.state_dict()
    return state


def restore_scaler(fabric: Fabric, state: Mapping[str, Any]) -> None:
    """Go on with a loss scaler as it was."""
    fabric.strategy.precision.load_state_dict(dict(state))


def lost_process(error: RuntimeError) -> bool:
    """Return True if torch has lost the process it was exchanging gradients with."""
    words = str(error).lower()
    return any(part in words for part in ("connection reset by peer", "connection closed by peer", "remote process"))
