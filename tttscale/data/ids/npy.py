"""Flat arrays of NumPy, `.npy`: the paper's token files are such."""

import io
import warnings
from pathlib import Path

from numpy.lib import format as npy

from tttscale.data.ids.columns import Column, damaged, file_bytes, read_up_to
from tttscale.data.ids.id_file import IdFile
from tttscale.errors import DataError
from tttscale.packages import one_line

_HEADER_BYTES = 1 << 16
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_npy(path: Path) -> IdFile:
    """Check the header of a `.npy` file; nothing in it is ever unpickled.

    Raises:
        DataError: it is not a flat array of little-endian integers, or not as long as its header says.
    """
    stream = io.BytesIO(read_up_to(path, 0, _HEADER_BYTES))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            shape, _, dtype = _READERS[npy.read_magic(stream)](stream)
    except Exception as error:  # of many kinds: what is in the file is parsed as Python
        raise damaged(path, f"not a .npy file that can be read ({_short(error)})") from None
    count = _count(path, shape)
    if dtype.hasobject or dtype.kind not in "iu":
        what = "Python objects, which are not read" if dtype.hasobject else f"{dtype}"
        raise DataError(
            f"source {path}: an array of {what}, and ids are integers. Save them with "
            ".astype('uint16') or .astype('uint32')."
        )
    if dtype.byteorder == ">":
        raise DataError(
            f"source {path}: big-endian {dtype.name}. Save it with .astype('<u{dtype.itemsize}')."
        )
    ids = Column(path, stream.tell(), dtype.newbyteorder("<").str, count)
    size = file_bytes(path)
    if ids.end_bytes != size:
        raise damaged(
            path, f"{size:,} bytes, but its header says {count:,} ids in {ids.end_bytes:,} bytes"
        )
    return IdFile("NumPy array", ids)


def _count(path: Path, shape: tuple[int, ...]) -> int:
    if len(shape) != 1:
        raise DataError(
            f"source {path}: an array of shape {list(shape)}, and a file of ids has one axis. Save it with "
            ".reshape(-1)."
        )
    return int(shape[0])


def _short(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "an unknown version of the format"
    return one_line(error)
