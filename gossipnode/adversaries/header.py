"""The template of a blob, from its own header: for whoever holds models but neither task nor torch.

Only for blobs of our own making. What a peer wrote is never parsed: it is compared (`gossipnode.learn.encoding`).
"""

from __future__ import annotations

import json
from typing import Final

from gossipnode.learn.encoding import Buffer, Encoding, Template

_ENCODINGS: Final[dict[str, Encoding]] = {"F32": "float32", "BF16": "bfloat16", "I8": "int8"}


def template_of(blob: Buffer) -> Template:
    view = memoryview(blob)
    table = json.loads(bytes(view[8 : 8 + int.from_bytes(view[:8], "little")]))
    kinds = {each["dtype"] for each in table.values()}
    (dtype,) = kinds if len(kinds) == 1 else {"I8"}  # beside int8 tensors stand their scales
    layout = [(name, each["shape"]) for name, each in table.items() if each["dtype"] == dtype]
    return Template(layout, _ENCODINGS[dtype])
