"""The tables of `tttscale bench data`: rates, shares and ratios of what was measured."""

from types import SimpleNamespace

from tttscale.bench.data_peers import MEMMAP, OURS
from tttscale.bench.data_tables import note, tables

CASE = {"case": "a window", "reads": 2, "tokens": 4000}


def data():
    return {
        "plan": {"sequence_tokens": 4000},
        "cases": [
            {**CASE, "reader": OURS[0], "median_seconds": 0.004},
            {**CASE, "reader": MEMMAP, "median_seconds": 0.001},
        ],
        "missing": {"Some Peer": "not installed"},
        "bytes_per_token": {OURS[0]: 1.234, MEMMAP: 2},
        "simulated": [
            {
                "consumer": consumer,
                "tokens": 4000,
                "seconds": 2.0,
                "alone_seconds": 1.6,
                "wait_seconds": 0.01,
                "first_wait_seconds": 0.004,
            }
            for consumer in ("spins", "sleeps")
        ],
    }


def cells(table, name):
    """The cells of the first row that holds `name`."""
    row = next(line for line in table.splitlines() if name in line)
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_figures_of_a_case():
    result = dict(tables(data()))["Result"]
    # 2 readings of 4 ms in a step of 4000 tokens at 400,000 tokens/s, 10 ms.
    ours = ["a window", "2", OURS[0], "4.00", "1,000,000", "4.0x", "80.00%"]
    assert cells(result, OURS[0]) == ours
    assert cells(result, MEMMAP)[-3:] == ["4,000,000", "1.0x", ""]  # not a way that a step reads
    assert cells(result, "Some Peer")[:4] == ["all", "", "Some Peer", "not installed"]


def test_a_simulated_consumer():
    table = dict(tables(data()))["Simulated consumer"]
    assert table.index("simulated, sleeps") < table.index("simulated, spins")
    assert cells(table, "spins")[1:] == [
        "4,000",
        "2.00",
        "1.60",
        "0.0100",
        "0.0040",
        "0.500%",
        "25.0%",
    ]


def test_bytes_on_disk():
    assert cells(dict(tables(data()))["On disk"], OURS[0]) == [OURS[0], "1.23"]


def test_the_words_say_what_was_not_measured():
    tokenizer = SimpleNamespace(name="mine", dtype="uint16")
    store = SimpleNamespace(info=SimpleNamespace(tokenizer=tokenizer))
    split = SimpleNamespace(num_tokens=123456, name="train")
    alone, peers = (note(store, split, 96, 5000, 9, peers) for peers in (False, True))
    assert alone.startswith("The first 5,000 of 123,456 tokens (train, tokenizer mine, uint16).")
    assert alone.endswith("Other trainers' formats were not measured (`--peers`).")
    assert "--peers" not in peers
    assert "MDS samples of one chunk each" in peers
