"""Files of ready token ids, written as the toolkits write them."""

import struct
from itertools import accumulate

import numpy as np

CODES = {"uint8": 1, "int16": 3, "int32": 4, "int64": 5, "uint16": 8, "float32": 7}


def write_npy(path, documents, dtype="uint16"):
    """The paper's: one array, the documents one after the other."""
    np.save(path, np.concatenate([np.array(ids, dtype) for ids in documents]))
    return path


def write_megatron(prefix, documents, dtype="uint16", *, sentences=1, fairseq=False, modes=None):
    """A .bin and an .idx; each document in `sentences` sequences, as `--split-sentences` does."""
    sequences, firsts = [], [0]
    for ids in documents:
        parts = np.array_split(np.array(ids, dtype), sentences) if len(ids) or fairseq else []
        sequences += [part for part in parts if len(part) or sentences == 1]
        firsts.append(len(sequences))
    item = np.dtype(dtype).itemsize
    lengths = [len(ids) for ids in sequences]
    pointers = [0, *accumulate(length * item for length in lengths)][: len(lengths)]
    head = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, CODES[dtype], len(lengths))
    body = np.array(lengths, np.int32).tobytes() + np.array(pointers, np.int64).tobytes()
    if not fairseq:
        head += struct.pack("<Q", len(firsts))
        body += np.array(firsts, np.int64).tobytes()
    if modes is not None:
        body += np.array(modes, np.int8).tobytes()
    index = prefix.with_name(prefix.name + ".idx")
    index.write_bytes(head + body)
    data = prefix.with_name(prefix.name + ".bin")
    data.write_bytes(b"".join(ids.tobytes() for ids in sequences))
    return index


def write_nanoset(path, documents, dtype="uint16", *, index=True, metadata="name|size"):
    """A .ds with what datatrove writes beside it; `metadata`: also "name" (older) or None."""
    ids = [np.array(one, dtype) for one in documents]
    path.write_bytes(b"".join(one.tobytes() for one in ids))
    ends = [*accumulate(len(one) for one in ids)]
    if index:
        path.with_name(path.name + ".index").write_bytes(np.array(ends, np.uint64).tobytes())
    if metadata:
        size = f"|{np.dtype(dtype).itemsize}" if metadata == "name|size" else ""
        total = ends[-1] if ends else 0
        path.with_name(path.name + ".metadata").write_text(f"gpt2{size}\n{total}\n1.2 KT")
    return path
