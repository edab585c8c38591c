import pytest

from tttscale.config import check_world, load_config
from tttscale.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["parallel.chunk_length=1000"], "parallel.chunk_length=992"),
        (["parallel.chunk_length=7"], "parallel.chunk_length=16"),
        (["parallel.sequence=9"], "the largest that works is parallel.chunk_length=8176"),
        (["parallel.sequence=3", "data.sequence_length=20"], "at most parallel.sequence=2"),
        (
            ["train.sequences_per_step=3", "parallel.batch=2"],
            "train.sequences_per_step=4 or a smaller parallel.batch",
        ),
        (["train.lr=1e-6"], "train.lr_final=1e-08"),
        (["train.lr=1e-6", "train.lr_schedule=wsd"], "so the decay would rise; .*=1e-08"),
        (
            [
                "train.lr_schedule=wsd",
                "train.steps=9",
                "train.warmup_steps=3",
                "train.decay_steps=7",
            ],
            r"warmup_steps = 3 and train\.decay_steps = 7 are more than train\.steps = 9; set "
            r"train\.decay_steps=6 or less",
        ),
        (
            [
                "train.lr_schedule=wsd",
                "train.steps=9",
                "train.warmup_steps=9",
                "train.decay_steps=1",
            ],
            r"set more train\.steps, or a shorter train\.warmup_steps",
        ),
        (["train.decay_steps=3"], "set train.lr_schedule=wsd, or leave train.decay_steps out"),
        (["train.lr_schedule=wds"], "train.lr_schedule = 'wds': .*wsd"),
        (["train.decay_step=3"], "train.decay_steps"),
        (["train.lr_schedule=wsd", "train.decay_steps=0"], "train.decay_steps = 0"),
        (
            ["model.inner_lr_warmup_steps=5", "model.inner_lr_warmup_init=2"],
            "the inner learning rate would fall in its warm-up; set model.inner_lr_warmup_init=0.1",
        ),
        (["data.store=null"], r"data\.store is missing; set data\.store=PATH .* or data\.blend="),
        (
            ["data.blend=[{store: a}]"],
            "data.blend=null to train on the one store, or data.store=null",
        ),
        (
            ["data.store=null", "data.blend=[{store: a}, {store: b}, {store: ./a}]"],
            r"data\.blend\[0\]\.store and data\.blend\[2\]\.store are the same store ./a",
        ),
        (
            ["data.store=null", "data.blend=[{store: a, weight: 1Ki}, {store: b, weight: 0.1}]"],
            r"data\.blend\[1\]\.weight = 0\.1 .* b would get no sequence out of 4096",
        ),
    ],
)
def test_keys_that_do_not_fit_together(write, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(write(), overrides)


@pytest.mark.parametrize("weights", [(1, 1e-5), (1e-9, 3, 0.7), (2, 1e4, 1e4)])
def test_the_weight_proposed_works(write, weights):
    def blend(weights):
        parts = (f"{{store: s{i}, weight: {w}}}" for i, w in enumerate(weights))
        return ["data.store=null", f"data.blend=[{', '.join(parts)}]"]

    with pytest.raises(ConfigError, match="too small") as caught:
        load_config(write(), blend(weights))
    words = str(caught.value)
    idle = int(words.split("[")[1].split("]")[0])
    proposed = float(words.split("Set it to ")[1].split()[0])
    load_config(write(), blend([proposed if i == idle else w for i, w in enumerate(weights)]))


@pytest.mark.parametrize("ranks", [2, 3, 5, 8, 9, 100])
@pytest.mark.parametrize("tokens", [2048, 2049, 65536, 100_001])
def test_the_chunk_length_proposed_works_and_is_the_largest(write, ranks, tokens):
    shape = [f"parallel.sequence={ranks}", f"data.sequence_length={tokens}"]
    with pytest.raises(ConfigError) as caught:
        load_config(write(), [*shape, f"parallel.chunk_length={2**20}"])
    largest = int(str(caught.value).rsplit("=", 1)[1])
    load_config(write(), [*shape, f"parallel.chunk_length={largest}"])
    with pytest.raises(ConfigError):
        load_config(write(), [*shape, f"parallel.chunk_length={largest + 16}"])


def test_world_gives_replicas(write):
    overrides = ["parallel.sequence=4", "train.sequences_per_step=4", "parallel.batch=2"]
    config = load_config(write(), overrides)
    assert check_world(config, 4) == 1
    assert check_world(config, 8) == 2
    with pytest.raises(ConfigError, match=r"has 6 processes.*one of 1, 2, 3, 6"):
        check_world(config, 6)
    with pytest.raises(ConfigError, match=r"a single process.*launch torchrun CONFIG -n 4"):
        check_world(config, 1)
    with pytest.raises(ConfigError, match=r"not a multiple of 8.*train.sequences_per_step=8"):
        check_world(config, 16)
