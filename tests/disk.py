"""What a process asks of the disk, and in which order: files are put there before anything relies on them.

`watch` goes into the process that is looked at, such as by `before` of `tests.warm.Command`; the others look
at what it has seen. Files are told by their inodes, so that it does not matter who opens, names or copies.
"""

import json
import os
from pathlib import Path


def watch(log):
    """From now on every fsync, replace and rename is noted in the file `log`, before it is done."""
    out = open(log, "a", buffering=1)  # noqa: SIM115, PTH123 - as long as the process lives
    plain = {name: getattr(os, name) for name in ("fsync", "fdatasync", "replace", "rename")}

    def note(**fields):
        out.write(json.dumps(fields) + "\n")

    def syncing(name):
        def call(descriptor):
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            plain[name](descriptor)
            found = os.fstat(number)
            path = str(Path(f"/proc/self/fd/{number}").readlink())
            note(call="sync", path=path, inode=found.st_ino, bytes=found.st_size)

        return call

    def moving(name):
        def call(source, target, **options):
            path, to = os.fspath(source), os.fspath(target)
            if path != to:  # onto itself it is no move, and gives no name
                note(call="move", path=path, to=to, holds=_content(source))
            plain[name](source, target, **options)

        return call

    os.fsync, os.fdatasync = syncing("fsync"), syncing("fdatasync")
    os.replace, os.rename = moving("replace"), moving("rename")


def _content(path):
    """(path, inode, bytes) of the file, or of all files in the folder, that is moved."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [(str(p), p.stat().st_ino, p.stat().st_size) for p in files]


def seen(log):
    """All that was noted."""
    return [json.loads(line) for line in Path(log).read_text().splitlines()]


def moved_too_early(notes):
    """Files that got their name while the disk did not have all of them yet, as "path -> name".

    What is moved inside of a folder that gets its own name later counts then.
    """
    on_disk, early = {}, []
    for at, n in enumerate(notes):
        if n["call"] == "sync":
            on_disk[n["inode"]] = n["bytes"]
            continue
        later = [m["path"] for m in notes[at + 1 :] if m["call"] == "move"]
        if not any(n["to"].startswith(f"{folder}/") for folder in later):
            early += [
                f"{path} -> {n['to']}"
                for path, inode, size in n["holds"]
                if on_disk.get(inode) != size
            ]
    return early


def names_given(notes):
    """inode -> the last name that each file was given by a move, alone or with its folder."""
    given = {}
    for n in notes:
        for path, inode, _ in n.get("holds", ()):
            given[inode] = path.replace(n["path"], n["to"], 1)
    return given
