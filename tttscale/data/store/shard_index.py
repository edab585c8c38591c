"""The index at the end of a shard: its size, and the digest by which it is known again."""

import hashlib

_ENTRY_BYTES, _CHECKSUM_BYTES = 16, 4
"""A shard ends with the offset and the size of each of its chunks, and a crc32c of these."""


def index_bytes(chunks: int) -> int:
    """Bytes of the index of a shard of so many chunks."""
    return chunks * _ENTRY_BYTES + _CHECKSUM_BYTES


def index_digest(index: bytes) -> str:
    """8-byte blake2b of a shard's index, hexadecimal."""
    return hashlib.blake2b(index, digest_size=8).hexdigest()
