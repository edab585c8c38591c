"""The note of data that a run has left out: read by every start, or an error."""

import pytest

from tests.train.small import small_config
from tttscale.comm.mesh import Mesh
from tttscale.errors import CheckpointError
from tttscale.scan.transport import SingleRank
from tttscale.train.left_out import LeftOut, RollBack

ALONE = Mesh(0, 1, 1, SingleRank())


def skipped(config):
    return config.data.skip_steps


def test_what_is_left_out_is_read_again(tmp_path):
    config = small_config()
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"skip_steps": ("3-4", 9)})}
    )
    left_out = LeftOut(ALONE, tmp_path)
    assert left_out.applied(config) is config
    assert not list(tmp_path.iterdir())
    for data, checkpoint in ((5, 2), (7, 4), (8, 4)):
        left_out.add(RollBack(data=data, step=data, checkpoint=checkpoint))
    again = LeftOut(ALONE, tmp_path)
    for each in (left_out, again):
        assert skipped(each.applied(config)) == ("3-5", "7-9")
        assert [each.in_a_row(step) for step in (2, 4, 6)] == [0, 2, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[1]",
        b"{}",
        b'{"roll_backs": [{"data": 0, "step": 1, "checkpoint": 1}]}',
        b'{"roll_backs": [{"data": "1", "step": 1, "checkpoint": 1}]}',
        b'{"roll_backs": [], "more": 1}',
        b'{"format": "another", "roll_backs": []}',
        b'{"format_version": 2, "roll_backs": []}',
    ],
)
def test_a_note_that_is_no_longer_what_was_written_is_an_error(tmp_path, content):
    (tmp_path / "left_out.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"left_out\.json.*Put the file back"):
        LeftOut(ALONE, tmp_path)


def test_a_link_is_read_like_a_file_and_replaced(tmp_path):
    (tmp_path / "left_out.json").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="Put the file back"):
        LeftOut(ALONE, tmp_path)
