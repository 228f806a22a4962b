"""The causes for which an attempt of a trial fails. They decide whether it is tried again."""

from __future__ import annotations

import re

DIVERGED = "diverged"
"""The loss became NaN or infinite. Deterministic: it would again."""
OUT_OF_MEMORY = "out_of_memory"
"""Of a GPU or of the machine."""
EXCEPTION = "exception"
"""Any other Python error."""
BROKEN_INPUT = "broken_input"
"""A file is damaged, or the network cannot take the images. Every attempt would meet it again."""
DIED = "died"
"""A process ended without a Python error: killed, pre-empted, the machine lost."""

STORAGE = "storage"
"""It refused writes for longer than is worth waiting: a fault of the machine."""

OTHER_CODE = "other_code"
"""The code or a library is not the one that the sweep was started with, so nothing was computed."""


class OtherCodeError(Exception):
    """Its message lists the files and libraries that differ."""


_MEMORY_WORDS = (
    "out of memory",
    "OutOfMemoryError",
    "MemoryError",
    "can't allocate memory",
    "Cannot allocate memory",
    "STATUS_ALLOC_FAILED",
)
"""In the messages of CUDA and its libraries, of torch's CPU allocator and of the kernel."""
_NO_ROOM_FOR_CODE = re.compile("could not create a primitive(?! descriptor)")
"""What oneDNN says where it cannot allocate the code of a layer. Of layers that it does not know it lacks a
descriptor."""


def tells_of_memory(message: str) -> bool:
    """Whether an error's message says that memory ran out; torch has no type for all of them."""
    return any(words in message for words in _MEMORY_WORDS) or _NO_ROOM_FOR_CODE.search(message) is not None
