"""A model card: facts in tables, without paths, credentials or markup from outside."""

import yaml

from tests.convert.test_shapes import source_of
from tests.scan.helpers import tiny_config
from tttscale import scrub
from tttscale.convert.model_card import render
from tttscale.data import ByteTokenizer

CONFIG = tiny_config("mlp")


def card(title="run", training=None, notes=(), tokenizer=None):
    return render(title, CONFIG, source_of(CONFIG), tokenizer, training or {}, notes)


def test_what_hubs_read():
    front = yaml.safe_load(card().split("---\n")[1])
    assert front["pipeline_tag"] == "text-generation"
    assert "ttt-mlp" in front["tags"]


def test_facts_are_in_tables():
    text = card(training={"steps": "12", "data": "a | b", "empty": ""}, tokenizer=ByteTokenizer())
    assert "| steps | 12 |" in text
    assert "| data | a \\| b |" in text
    assert "empty" not in text
    assert f"| tokenizer | bytes, sha256 `{ByteTokenizer.digest}` |" in text
    assert "| special tokens | bos `<s>`, eos `</s>`, pad `<pad>` |" in text
    assert "| inner learning rate | 0.1 |" in text
    assert "Sequences were split over ranks exactly" in text


def test_weights_from_elsewhere_claim_no_exactness():
    text = card(notes=["Imported from `x`."])
    assert "- Imported from `x`." in text
    assert "exactly" not in text
    assert "--tokenizer TOKENIZER" in text


def test_nothing_secret_and_no_markup():
    scrub.remember("hunter22")
    text = card("<b>\nx", {"data": "s3://name:pass@host/x\x1b[31m hunter22"})
    for word in ("<b>", "pass@", "hunter22", "\x1b"):
        assert word not in text
