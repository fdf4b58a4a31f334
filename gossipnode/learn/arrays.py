"""Numbers from the bytes of a .npy file that anybody may have written: the input of a question to a model.

numpy's own reader allocates what a header claims before it looks at how much is there, so only its header is read with
it. Invariant: whatever the bytes, Unanswerable and nothing else is raised, and no more memory is taken than four times
their number.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from torch import Tensor

from gossipnode.learn.names import last_line
from protocols.learner import Unanswerable

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
KINDS = "fiub"  # of dtypes: floats, whole numbers, booleans


def numbers(data: bytes) -> Tensor:
    """float32 in the file's shape, every value finite. Raises Unanswerable."""
    file = io.BytesIO(data)
    try:
        shape, fortran, dtype = READERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # numpy's parser of a header lets through whatever Python's own raises
        raise Unanswerable(f"not a .npy file of numbers, as numpy.save writes it: {last_line(error)}") from error
    body = memoryview(data)[file.tell() :]
    if dtype.kind not in KINDS or not shape or not all(type(each) is int and each > 0 for each in shape):
        raise Unanswerable("the .npy file must hold an array of numbers, with at least one example")
    if math.prod(shape) * dtype.itemsize != len(body):
        raise Unanswerable(f"the .npy file should hold {shape} values of {dtype}, but has {len(body)} bytes of them")
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is refused below
        values = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").astype(np.float32, order="C")
    if not np.isfinite(values).all():
        raise Unanswerable("every number in the .npy file must be finite")
    return torch.from_numpy(values)
