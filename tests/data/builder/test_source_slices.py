"""Slices of the sources: a pure function of the files."""

from tttscale.data.builder.source_slices import cut_sources


def test_names_of_slices_follow_the_sources(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = [one.name for one in cut_sources([path], ("tokenizer",))]
    assert [one.name for one in cut_sources([path], ("tokenizer",))] == before
    assert [one.name for one in cut_sources([path], ("another",))] != before
    path.write_text("two!")
    assert [one.name for one in cut_sources([path], ("tokenizer",))] != before


def test_small_files_share_a_slice_and_large_ones_are_cut(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text("x" * 1000)
    big = tmp_path / "big.jsonl"
    big.write_text('{"text": "x"}\n' * 200_000)
    slices = cut_sources([*sorted(tmp_path.glob("*.txt")), big], ())
    assert len(slices[0].file_ranges) == 20
    assert [r.begin for one in slices[1:] for r in one.file_ranges] == [0, 1 << 20, 2 << 20]
    assert sum(one.size_bytes for one in slices) == 20_000 + big.stat().st_size
