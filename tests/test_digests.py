"""Files that appear whole or not at all, and digests made while they are written."""

import numpy as np
import pytest

from tttscale.files import Written, digest, digest_of, noting_digests, replaced


def test_a_digest_made_while_writing_is_that_of_the_file(tmp_path):
    pieces = [np.random.default_rng(i).bytes(n) for i, n in enumerate((0, 1, 1 << 20, 5, 3 << 20))]
    with noting_digests() as notes:
        for name, parts in (("many", pieces), ("empty", [])):
            with replaced(tmp_path / name) as file:
                for piece in parts:
                    assert file.write(memoryview(piece)) == len(piece)
            (tmp_path / "other").write_bytes(b"not ours")
    content = b"".join(pieces)
    assert (tmp_path / "many").read_bytes() == content
    assert notes == {
        tmp_path / "many": Written(len(content), digest_of(content)),
        tmp_path / "empty": Written(0, digest_of(b"")),
    }
    assert digest(tmp_path / "many") == notes[tmp_path / "many"].blake2b


def half(path):
    with replaced(path) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_nothing_is_noted_of_what_was_not_written_whole(tmp_path):
    (tmp_path / "kept").write_bytes(b"before")
    with noting_digests() as notes, pytest.raises(ZeroDivisionError):
        half(tmp_path / "kept")
    assert notes == {}
    assert (tmp_path / "kept").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_notes_end_with_their_block(tmp_path):
    with noting_digests() as notes:
        pass
    with replaced(tmp_path / "later") as file:
        file.write(b"x")
    assert notes == {}
