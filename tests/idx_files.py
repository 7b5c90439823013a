"""Files of the format of MNIST and Fashion-MNIST, right or wrong."""

import struct


def write_idx(path, array, promise=None, pack=open):
    header = (
        b"\x00\x00\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *(promise or array.shape))
    )
    with pack(path, "wb") as file:
        file.write(header + array.tobytes())
