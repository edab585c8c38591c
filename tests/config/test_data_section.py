"""The section `data`: steps that are skipped, one store or several."""

import pytest

from tttscale.config import dump_config, load_config


@pytest.mark.parametrize(
    ("given", "steps", "ranges"),
    [
        ("[1200-1210,1300]", ("1200-1210", 1300), ((1200, 1210), (1300, 1300))),
        ("[1k-2k, 5, 1_500 - 3000]", (5, "1000-3000"), ((5, 5), (1000, 3000))),
        ("[4, 3, 3-3, 5-6]", ("3-6",), ((3, 6),)),
        ("[]", (), ()),
    ],
)
def test_skipped_steps(write, given, steps, ranges):
    config = load_config(write(), [f"data.skip_steps={given}"])
    assert (config.data.skip_steps, config.data.skipped) == (steps, ranges)
    assert load_config(write(dump_config(config), "again.yaml")) == config


def test_a_blend_reads_back_equal(write):
    blend = "data.blend=[{store: a, weight: 2.5}, {store: b}]"
    config = load_config(write(), ["data.store=null", blend])
    assert [(part.store, part.weight) for part in config.data.components] == [
        ("a", 2.5),
        ("b", 1.0),
    ]
    assert load_config(write(dump_config(config), "again.yaml")) == config
    assert [part.store for part in load_config(write()).data.components] == ["stores/text"]
