"""What may stand under the name of a file, and what JSON may hold, that no reader must trip over."""

import os
import socket
from pathlib import Path

BAD_JSON = {
    "empty": b"",
    "blank": b" \n\t",
    "cut": b'{"a": [1, 2',
    "two": b"{} {}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep and open": b'{"a":' * 100_000,
    "deep behind quotes": b'["\\"", ' * 5_000,
    "a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "a large exponent": b'{"a": 1e400}',
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "a key twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half a pair": b'{"a": "\\ud800"}',
    "half a pair as a key": b'{"\\uDFFF": 1}',
    "a control character": b'{"a": "\x00"}',
    "an open string of quotes": b'"' + b'\\"' * 200_000 + b"\\",
    "many lists": b"[" + b"[]," * 2_000_001 + b"[]]",
    "noise": bytes(range(256)),
}


def no_files(folder):
    """Things that are no files, by name; they are made here."""
    folder.mkdir()
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        before = Path.cwd()
        os.chdir(folder)  # the name of a socket is short
        try:
            listening.bind("socket")
        finally:
            os.chdir(before)
    (folder / "device").symlink_to("/dev/zero")
    (folder / "link to a pipe").symlink_to("pipe")
    (folder / "circle").symlink_to("circle")
    (folder / "nowhere").symlink_to("nothing")
    return {path.name: path for path in folder.iterdir()}
