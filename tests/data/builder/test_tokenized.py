"""What a build goes on from may be harmed in between: one error that names the file, or the same tokens."""

import json
import random
import zipfile

import numpy as np
import pytest

from tests.hostile import no_files
from tttscale.data.builder.shards import _receipt
from tttscale.data.builder.source_slices import cut_sources
from tttscale.data.builder.tokenized import Recipe, TokenizedSlice, tokenize_slice
from tttscale.data.tokenizers.tokenizer import ByteTokenizer, load_tokenizer
from tttscale.errors import DataError


class Quiet:
    def add(self, documents, text_bytes, tokens):
        """Nothing is shown."""


@pytest.fixture
def run(tmp_path, corpus):
    recipe = Recipe(ByteTokenizer(), "text")
    (piece,) = cut_sources([corpus], recipe.identity)
    run = TokenizedSlice(tmp_path, piece.name, "uint16")
    tokenize_slice(run, piece, recipe, Quiet())
    return run


def read(run):
    """All of it, or None where it is refused with its name; anything else is a bug."""
    try:
        return run.table().tolist(), run.tally(), run.tokens().tolist()
    except DataError as error:
        problem = str(error)
    assert problem.startswith(str(run.table_path))
    assert "rerun the same command" in problem
    return None


def test_hundreds_of_damaged_tables(run):
    whole, expected = run.table_path.read_bytes(), read(run)
    assert len(expected[0]) == 40
    random_ = random.Random(0)
    for _ in range(300):
        harmed = bytearray(whole)
        for _ in range(random_.randrange(1, 3)):
            at = random_.randrange(len(harmed))
            harmed[at : at + random_.randrange(3)] = random_.randbytes(random_.randrange(3))
        run.table_path.write_bytes(harmed)
        read(run)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"\x80\x04K\x01."], ids=repr)
def test_what_is_no_table(run, content):
    run.table_path.write_bytes(content)
    assert read(run) is None


def test_a_table_of_another_shape_or_other_tokens(run):
    table, notes = run.table(), json.dumps(run.tally().as_json())
    for other in (table[:, :2], table.astype(np.int64), table[0], table[:-1], table * 2**40):
        np.savez(run.table_path, documents=other, notes=notes)
        assert read(run) is None
    np.savez(run.table_path, documents=table)
    assert run.table().tolist() == table.tolist()
    assert read(run) is None  # nobody says what was left out
    for strange in ("[]", "{", '{"counts": 1}', "null"):
        np.savez(run.table_path, documents=table, notes=strange)
        assert read(run) is None


def test_a_table_that_grows_when_it_is_opened(run):
    with zipfile.ZipFile(run.table_path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("documents.npy", bytes(1 << 26))
    assert run.table_path.stat().st_size < 1 << 20
    assert read(run) is None


def test_what_is_no_file_is_not_waited_for(run, tmp_path):
    for path in no_files(tmp_path / "strange").values():
        run.table_path.unlink()
        run.table_path.symlink_to(path)
        assert read(run) is None
        assert _receipt(path) is None
        with pytest.raises(DataError, match=r"^--tokenizer .*Give `bytes`, or the path of"):
            load_tokenizer(str(path))
