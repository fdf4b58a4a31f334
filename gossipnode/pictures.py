"""Perceptual hashes of generated images, as the imagehash library makes them: near pictures have near hashes.

The same prompt and seed on another machine give a picture that differs in the last bits, which no digest forgives.
The hashes are those of "Generative Artificial Intelligence Consensus in a Trustless Network" (arXiv 2307.01898): of
averages, of frequencies, of gradients and of wavelets, 64 bits each; how many may differ is calibrated for a model.
imagehash is an extra, because only tasks that make images need it. A peer's picture is opened as PNG only, and not at
all beyond PIXELS, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

from gossipnode.errors import OperatorError
from verify.lsh import differing

PIXELS: Final = 4096 * 4096  # 50 MB decoded
KINDS: Final = ("average_hash", "phash", "dhash", "whash")  # names of imagehash's own

Hashes = Mapping[str, bytes]


def image_hashes(png: bytes) -> Hashes:
    """Of each kind. Raises OperatorError if imagehash is missing, ValueError if this is no picture of a fair size."""
    try:
        import imagehash
        from PIL import Image
    except ImportError as error:
        raise OperatorError(f"to compare images, {error.name} is missing: pip install 'gossipnode[images]'") from error
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.width * picture.height > PIXELS:
                raise ValueError(f"a picture of {picture.width} x {picture.height} pixels, where {PIXELS} are allowed")
            pixels = picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise ValueError(f"no PNG: {error}") from error
    return {kind: bytes.fromhex(str(getattr(imagehash, kind)(pixels))) for kind in KINDS}


def furthest(a: Hashes, b: Hashes) -> int:
    """The bits that differ in the kind of hash in which most do, 0..64."""
    return max(differing(a[kind], b[kind]) for kind in KINDS)
