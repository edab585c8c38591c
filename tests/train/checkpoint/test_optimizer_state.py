"""AdamW's moments on disk, written by some ranks and read by others."""

import pytest
import torch
from safetensors.torch import save_file

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import CheckpointError
from tttscale.tensors import write_tensors
from tttscale.train.checkpoint.optimizer_state import MomentReader, named_moments
from tttscale.train.zero_fragments import Fragment


def fragment(start, *values):
    return Fragment("w", start, {k: torch.tensor(values) for k in ("exp_avg", "exp_avg_sq")})


def write_moments(path, fragments):
    write_tensors(path, named_moments(fragments))


def test_moments_from_pieces_in_any_order(tmp_path):
    write_moments(tmp_path / "a", [fragment(5, 5.0, 6.0), fragment(0, 0.0, 1.0)])
    write_moments(tmp_path / "b", [fragment(2, 2.0, 3.0, 4.0)])
    reader = MomentReader([tmp_path / "a", tmp_path / "b"])
    for start in range(7):
        for end in range(start + 1, 8):
            room = fragment(start, *[-1.0] * (end - start))
            reader.fill(room)
            assert room.moments["exp_avg_sq"].tolist() == list(range(start, end))


@pytest.mark.parametrize(("start", "missing"), [(0, 2), (1, 2), (2, 2), (4, 6), (9, 9)])
def test_moments_that_are_not_there(tmp_path, start, missing):
    write_moments(tmp_path / "a", [fragment(0, 0.0, 1.0), fragment(4, 4.0, 5.0)])
    reader = MomentReader([tmp_path / "a"])
    with pytest.raises(CheckpointError, match=f"lacks exp_avg of w from element {missing} on"):
        reader.fill(fragment(start, *[0.0] * 4))
    with pytest.raises(CheckpointError, match="lacks exp_avg of v from element 0 on"):
        reader.fill(Fragment("v", 0, fragment(0, 0.0).moments))


def test_a_file_that_is_no_moments(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="is damaged"):
        MomentReader([tmp_path / "a"])
    tiny_model(tiny_config(), torch.float32).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is damaged"):
        MomentReader([tmp_path / "model.safetensors"])


def moments(tmp_path, **tensors):
    save_file({key.replace("__", "/"): value for key, value in tensors.items()}, tmp_path / "a")
    return MomentReader([tmp_path / "a"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("w__exp_avg__-1", torch.ones(3)),
        ("w__exp_avg__01", torch.ones(3)),
        ("w__exp_avg__" + "9" * 30, torch.ones(3)),
        ("w__exp_avg__1e3", torch.ones(3)),
        ("w__exp_avg__", torch.ones(3)),
        ("w__exp_avg__٣", torch.ones(3)),
        ("w__momentum__0", torch.ones(3)),
        ("exp_avg__0", torch.ones(3)),
        ("__exp_avg__0", torch.ones(3)),
        ("w", torch.ones(3)),
        ("w__exp_avg__0", torch.tensor(1.0)),
        ("w__exp_avg__0", torch.ones(3, 1)),
        ("w__exp_avg__0", torch.ones(3, dtype=torch.float64)),
        ("w__exp_avg__0", torch.ones(3, dtype=torch.int32)),
        ("\x1b[31m", torch.ones(3)),
    ],
)
def test_tensors_that_are_no_moments(tmp_path, key, value):
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path}/a is damaged: .*is no moment of AdamW"
    ) as caught:
        moments(tmp_path, **{key: value})
    assert str(caught.value).isprintable()


def test_elements_that_two_pieces_hold(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"a is damaged: w/exp_avg/2 has elements of w/exp_avg/0"
    ):
        moments(tmp_path, w__exp_avg__0=torch.ones(3), w__exp_avg__2=torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (
            "exp_avg",
            float("nan"),
            r"holds 1 values of 4 that are not finite \(the first, at \[2\], is nan\)",
        ),
        ("exp_avg", float("-inf"), "holds 1 .* is -inf"),
        ("exp_avg_sq", float("inf"), "holds 1 .* is inf"),
        ("exp_avg_sq", -1e-9, r"holds -9\.99.*e-10, a mean of squares below 0"),
    ],
)
def test_moments_that_adamw_cannot_have(tmp_path, kind, value, said):
    written = fragment(0, 0.5, 0.5, 0.5, 0.5)
    written.moments[kind][2] = value
    write_moments(tmp_path / "a", [written])
    reader = MomentReader([tmp_path / "a"])
    with pytest.raises(
        CheckpointError, match=rf"a: w/{kind}/0 {said}.* an earlier checkpoint \(checkpoint"
    ):
        reader.fill(fragment(0, *[0.0] * 4))
    reader.fill(fragment(0, 0.0, 0.0))  # each rank looks at what it reads
