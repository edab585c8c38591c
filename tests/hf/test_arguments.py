"""Arguments that a TTT model does not take are refused by name, with what to do instead."""

import pytest
import torch

pytest.importorskip("transformers")

from tests.hf.helpers import tiny_pair
from tttscale.errors import ConfigError
from tttscale.hf import TTTCache
from tttscale.hf.arguments import one_cache, real_tokens, take_cache

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inputs_embeds": torch.zeros(1, 2, 12)}, "inputs_embeds .* give input_ids"),
        ({"position_ids": torch.zeros(1, 2)}, "position_ids .* leave them out"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"something": 1}, "something is nothing that a TTT model takes"),
        ({"input_ids": None}, r"input_ids: expected .* got None"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.int64)}, r"got \[2, 0\]"),
        ({"input_ids": torch.zeros(4, dtype=torch.int64)}, r"got \[4\]"),
        ({"attention_mask": torch.ones(2, 2)}, r"is \[2, 2\]: expected \[1, 3\], 1 for tokens"),
        ({"attention_mask": torch.ones(1, 4)}, r"is \[1, 4\]: expected \[1, 3\], 1 for tokens"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, r"is \[1, 1, 3, 3\]: expected"),
        ({"attention_mask": torch.zeros(1, 3)}, "row 0 of 1 has no token"),
        (
            {"past_key_values": ((torch.zeros(1),),)},
            "the cache is a tuple; .* tttscale.hf.TTTCache",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_had_is_named(arguments, words):
    _, model = tiny_pair()
    with pytest.raises(ConfigError, match=words):
        model(**{"input_ids": torch.tensor([[1, 2, 3]]), **arguments})


def test_what_asks_for_nothing_is_taken():
    _, model = tiny_pair()
    assert model(IDS, output_attentions=False, inputs_embeds=None).logits is not None


def test_masks_with_what_was_before():
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 0, 1, 1]])
    assert real_tokens(None, IDS, 0) is None
    assert real_tokens(mask[:, :3], IDS, 0).tolist() == [[False, True, True], [True, True, False]]
    assert real_tokens(mask, IDS, 2).tolist() == [[True] * 3, [False, True, True]]
    assert real_tokens(mask[:1].expand(2, -1), IDS, 2) is None
    with pytest.raises(ConfigError, match=r"\[2, 4\]: expected \[2, 3\] or \[2, 5\]"):
        real_tokens(mask[:, :4], IDS, 2)


def test_a_cache_under_either_name():
    cache = TTTCache()
    for name in ("cache", "past_key_values"):
        arguments = {name: cache, "other": 1}
        assert take_cache(arguments) is cache
        assert arguments == {"other": 1}
    assert one_cache(None, None) is None
