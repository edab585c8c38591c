"""Harm done to token stores and their builders, many times over; every episode is graded.

    python -m tests.campaigns.token_stores --out benchmarks/store_integrity

Ground truth is kept outside: what a store held before, and the bytes of a build that nobody disturbed.
An episode in which the harm did not happen counts as a failure of the campaign.
"""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.data.store.test_integrity import EDITS, files_of, flip, read_everything, same, verdict
from tttscale.bench import report
from tttscale.data import BuildOptions, build_store
from tttscale.errors import DataError

LINES = 60_000


class Grade(NamedTuple):
    what: str
    passed: bool
    note: str = ""


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files_of(path)}


def corpus(folder: Path) -> Path:
    chooser = random.Random(1)
    words = ["".join(chooser.choices("abcdefghij", k=chooser.randint(2, 9))) for _ in range(500)]
    path = folder / "corpus.jsonl"
    with path.open("w") as file:
        for _ in range(LINES):
            text = " ".join(chooser.choices(words, k=chooser.randint(1, 60)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def command(out: Path, source: Path, workers: int) -> list[str]:
    words = [sys.executable, "-m", "tttscale", "data", "build", str(out), str(source)]
    return [*words, "--workers", str(workers), "--heldout", "0.1"]


# ---- reading ---------------------------------------------------------------------------------------


def flips(store: Path, count: int, chooser: random.Random) -> Iterator[Grade]:
    """One bit anywhere in a shard, found by reading; and what `data verify` says."""
    expected = read_everything(store)
    shards = [path for path in files_of(store) if path.parent.name == "c"]
    for _ in range(count):
        path = chooser.choice(shards)
        good = flip(path, chooser)
        try:
            read_well = same(read_everything(store), expected)
            noticed = False
        except DataError as error:
            read_well, noticed = False, path.relative_to(store).as_posix() in str(error)
        found = verdict(store) == {path.relative_to(store).as_posix()}
        path.write_bytes(good)
        # A few bits of a frame's header mean nothing to a decoder; the tokens are then the right ones.
        note = "noticed at reading" if noticed else "harmless, found by verify"
        yield Grade("flipped bit in a shard", found and (noticed or read_well), note)


def metadata_flips(store: Path, count: int, chooser: random.Random) -> Iterator[Grade]:
    expected = read_everything(store)
    files = [path for path in files_of(store) if path.parent.name != "c"]
    for _ in range(count):
        path = chooser.choice(files)
        good = flip(path, chooser)
        try:
            passed, note = same(read_everything(store), expected), "harmless"
        except DataError:
            passed, note = True, "refused at opening"
        path.write_bytes(good)
        yield Grade("flipped bit in metadata", passed, note)


def edits(store: Path) -> Iterator[Grade]:
    for name, pattern, replacement in EDITS:
        path = store / name
        good = path.read_text()
        text, changed = re.subn(pattern, replacement, good, count=1)
        path.write_text(text)
        try:
            read_everything(store)
            passed = False
        except DataError:
            passed = changed == 1
        path.write_text(good)
        yield Grade("edited metadata", passed, "refused at opening")


def losses(store: Path) -> Iterator[Grade]:
    """Every shard deleted, emptied, cut by a byte, and replaced by its neighbour."""
    shards = [path for path in files_of(store) if path.parent.name == "c"]
    harms: dict[str, Callable[[Path], object]] = {
        "deleted shard": lambda path: path.unlink(),
        "emptied shard": lambda path: path.write_bytes(b""),
        "cut shard": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "another shard in its place": lambda path: path.write_bytes(
            next(p for p in shards if p.parent == path.parent and p != path).read_bytes()
        ),
    }
    for path in shards:
        good = path.read_bytes()
        alone = len([p for p in shards if p.parent == path.parent]) == 1
        for what, harm in harms.items():
            if alone and what.startswith("another"):
                continue
            harm(path)
            key = path.relative_to(store).as_posix()
            try:
                read_everything(store)
                passed = False
            except DataError as error:
                passed = key in str(error) and verdict(store) == {key}
            path.write_bytes(good)
            yield Grade(what, passed, "refused, named")


# ---- building --------------------------------------------------------------------------------------


def kills(folder: Path, source: Path, count: int, chooser: random.Random) -> Iterator[Grade]:
    """A build killed with all its processes at a random moment, then the same command again."""
    began = time.monotonic()
    reference = folder / "reference"
    subprocess.run(command(reference, source, 2), check=True, capture_output=True)
    usual_seconds = time.monotonic() - began
    expected = tree(reference)
    for number in range(count):
        out = folder / f"killed-{number}"
        deaths = [kill_once(command(out, source, 2), out, usual_seconds, chooser)]
        while chooser.random() < 0.4 and not out.exists():  # some builds die more than once
            deaths.append(
                kill_once(command(out, source, 2), out, usual_seconds, chooser, insist=False)
            )
        refused = not opens(out)
        if not out.exists():
            subprocess.run(command(out, source, 2), capture_output=True, check=False)
        same_bytes = out.exists() and tree(out) == expected
        clean = not out.with_name(out.name + ".building").exists()
        shutil.rmtree(out, ignore_errors=True)
        yield Grade("killed builder", refused and same_bytes and clean, f"{sum(deaths)} deaths")


def kill_once(
    words: list[str], out: Path, usual_seconds: float, chooser: random.Random, insist: bool = True
) -> bool:
    """Starts a build and kills its whole group; again if it was done before the kill came."""
    while True:
        build = subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            build.wait(chooser.uniform(0.1, 0.95) * usual_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()
            return True
        if not insist:
            return False
        shutil.rmtree(out, ignore_errors=True)


def opens(out: Path) -> bool:
    """Whether anything that a killed build left can be read as a store."""
    for path in out.with_name(out.name + ".building").glob("*"):
        try:
            read_everything(path)
            return True
        except DataError:
            pass
    return False


def rivals(folder: Path, source: Path, count: int, chooser: random.Random) -> Iterator[Grade]:
    """Two to four builders of one store at once: one wins, and the store is as if it were alone."""
    expected = tree(folder / "reference")
    for number in range(count):
        out = folder / f"rivals-{number}"
        builders = []
        for _ in range(chooser.randint(2, 4)):
            builders.append(
                subprocess.Popen(
                    command(out, source, 1),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            time.sleep(chooser.uniform(0, 0.5))
        errors = [builder.communicate()[1] for builder in builders]
        codes = [builder.returncode for builder in builders]
        said = all("already exists" in e or "another process" in e for e in errors if e.strip())
        won = codes.count(0) == 1 and tree(out) == expected
        shutil.rmtree(out, ignore_errors=True)
        yield Grade("rival builders", won and said, f"{len(codes)} at once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/store_integrity"))
    parser.add_argument("--flips", type=int, default=256)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rivals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chooser = random.Random(options.seed)
    began = time.monotonic()
    grades: list[Grade] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = corpus(folder)
        store = folder / "store"
        small = BuildOptions(chunk_tokens=1 << 16, shard_tokens=1 << 18, holdout_fraction=0.1)
        build_store(store, [str(source)], small)
        for episodes in (
            flips(store, options.flips, chooser),
            metadata_flips(store, options.flips // 2, chooser),
            edits(store),
            losses(store),
            kills(folder, source, options.kills, chooser),
            rivals(folder, source, options.rivals, chooser),
        ):
            for grade in episodes:
                grades.append(grade)
                if not grade.passed:
                    print("FAILED", grade, flush=True)
            print(f"{grades[-1].what}: {time.monotonic() - began:.0f} s", flush=True)
    rows = []
    for what in dict.fromkeys(grade.what for grade in grades):
        mine = [grade for grade in grades if grade.what == what]
        notes = Counter(grade.note for grade in mine)
        rows.append(
            {
                "harm": what,
                "passed": f"{sum(g.passed for g in mine)} of {len(mine)}",
                "how": ", ".join(f"{note}: {n}" for note, n in notes.most_common()),
            }
        )
    text = report.table(rows)
    explained = (
        "Every episode harms a store or its builder once and compares with the truth kept outside. Passed: "
        "the harm was noticed and its file named, or (bits without meaning) the tokens read were the right "
        "ones and `data verify` found it; a killed build left nothing that opens, and the same command made "
        f"the same bytes; of rivals one won. Seed {options.seed}, numpy {np.__version__}."
    )
    data = [grade._asdict() for grade in grades]
    said = shlex.join(["python", "-m", "tests.campaigns.token_stores", *sys.argv[1:]])
    sections = [("Result", text), ("How", explained)]
    report.write(options.out, "Token stores under harm", sections, data, command=said)
    print(text)
    sys.exit(any(not grade.passed for grade in grades))


if __name__ == "__main__":
    main()
