"""Without the extra `eval` the harness's model says what to install."""

import importlib
import sys

import pytest

from tttscale.errors import TTTScaleError


def test_a_missing_harness_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "tttscale.evaluate.lm_eval", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(
        TTTScaleError, match=r"needs lm_eval.* Run `pip install 'tttscale\[eval\]'`"
    ):
        importlib.import_module("tttscale.evaluate.lm_eval")
