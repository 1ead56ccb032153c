"""Work shared among the processes of one run."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object


def share_among_processes(count: int, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`work(rows)` for the rows 0 … count − 1, shared among the processes; every process gets the whole result, in order.

    Each process takes every n-th row: neighbouring rows cost alike (images of one class), and so the shares do.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    if count < state.num_processes or state.num_processes == 1:
        return work(np.arange(count))
    mine = np.arange(state.process_index, count, state.num_processes)
    parts = gather_object([(mine, work(mine))])
    whole = np.empty((count, *parts[0][1].shape[1:]), parts[0][1].dtype)
    for rows, block in parts:
        whole[rows] = block
    return whole
