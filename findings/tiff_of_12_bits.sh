#!/usr/bin/env bash
# One would expect: Pillow scales the samples of a TIFF to the range of the mode in which it opens the image. Then one
# line for images of 16 bits, such as "shift right by 8", also serves images of 12 bits.
# What happens: Pillow opens grey TIFFs of 12 and of 16 bits in the same mode, I;16, but leaves 12-bit samples at
# 0..4095. The mode does not tell the two apart; only the tag BitsPerSample (258) does. convert("RGB") cuts all samples
# off at 255: a 12-bit image turns white from 6 % of its range on. The usual cure, the upper byte, leaves a 12-bit image
# almost black, with 15 as its brightest value.
# Why it matters: scanners, microscopes and medical cameras write 12 bits. A classifier that was trained on 8-bit photos
# gets a white or a black square, and answers all the same.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pillow==12.3.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

import numpy as np
import PIL
from PIL import Image

LONG, SHORT = 4, 3  # types of TIFF tags


def tiff(bits, samples):
    """A grey, uncompressed, little-endian TIFF with one strip. Samples of 12 bits are packed, most significant first."""
    height, width = samples.shape
    if bits == 12:
        single_bits = samples[..., None] >> np.arange(11, -1, -1) & 1
        pixels = np.packbits(single_bits.astype(np.uint8).reshape(height, -1), axis=1).tobytes()
    else:
        pixels = samples.astype("<u2").tobytes()
    tags = {256: (LONG, width), 257: (LONG, height), 258: (SHORT, bits), 259: (SHORT, 1), 262: (SHORT, 1),
            273: (LONG, 0), 277: (SHORT, 1), 278: (LONG, height), 279: (LONG, len(pixels))}
    start = 8 + 2 + 12 * len(tags) + 4  # of the pixels
    tags[273] = LONG, start
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == LONG else "<HH", *([value] if kind == LONG else [value, 0]))
        for tag, (kind, value) in tags.items()
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


print("Pillow", PIL.__version__)
seen = {}
for bits in (12, 16):
    ramp = np.tile(np.linspace(0, 2**bits - 1, 256).astype(np.uint16), (4, 1))  # from black to white
    image = Image.open(io.BytesIO(tiff(bits, ramp)))
    values = np.asarray(image)[0]
    converted = np.asarray(image.convert("RGB"))[0, :, 0]
    seen[bits] = image.mode, values.max(), (values >> 8).max(), (converted == 255).mean()
    print(f"{bits} bits: mode {image.mode}, largest value {values.max()}, its upper byte {(values >> 8).max()}, "
          f"white after convert('RGB'): {(converted == 255).mean():.0%} of a ramp from black to white")
assert seen[12][:3] == ("I;16", 4095, 15) and seen[16][:3] == ("I;16", 65535, 255), "Pillow has changed"
assert seen[12][3] > 0.9 and seen[16][3] > 0.99, "Pillow has changed"
PYTHON
