from __future__ import annotations

import io
import sys
import zlib

import numpy as np
import pytest

from gossipnode.errors import OperatorError
from gossipnode.pictures import KINDS, furthest, image_hashes

Image = pytest.importorskip("PIL.Image")


def scene(seed: int) -> np.ndarray:
    """Smooth, as pictures are: a few waves."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64] / 64
    waves = [rng.normal() * np.sin(6 * (rng.normal() * x + rng.normal() * y) + rng.uniform(0, 6)) for _ in range(12)]
    values = np.sum(waves, axis=0)
    return (values - values.min()) / np.ptp(values) * 200 + 20


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("imagehash")

    def test_the_last_bits_hardly_matter(self) -> None:
        noise = np.random.default_rng(0).integers(-1, 2, (64, 64))
        near = [furthest(image_hashes(png(scene(s))), image_hashes(png(scene(s) + noise))) for s in range(10)]
        far = [furthest(image_hashes(png(scene(s))), image_hashes(png(scene(s + 100)))) for s in range(10)]
        assert max(near) < 16 < min(far)

    def test_sixty_four_bits_of_each_kind(self) -> None:
        assert {kind: len(found) for kind, found in image_hashes(png(scene(1))).items()} == dict.fromkeys(KINDS, 8)

    @pytest.mark.parametrize("cut", [0, 1, 20, 40, 300])
    def test_what_is_no_picture_is_refused(self, cut: int) -> None:
        with pytest.raises(ValueError, match="no PNG"):
            image_hashes(png(scene(1))[:cut])

    def test_a_small_file_cannot_fill_the_memory(self) -> None:
        whole = png(scene(1))
        size = (5_000).to_bytes(4, "big") * 2
        header = b"IHDR" + size + whole[24:29]
        bomb = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
        with pytest.raises(ValueError, match="5000 x 5000"):
            image_hashes(bomb)


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(OperatorError, match=r"imagehash is missing: pip install 'gossipnode\[images\]'"):
        image_hashes(png(scene(1)))
