"""A converted model's README.md: what it is, what it was trained on, how to use it. No paths."""

from collections.abc import Mapping, Sequence

from tttscale import __version__
from tttscale.convert.source import Source, dtype_name, widest
from tttscale.convert.tokenizer_files import special_names
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.model.architecture import TTTConfig
from tttscale.model.registry import kinds_of
from tttscale.scrub import scrubbed

Facts = Mapping[str, str]
_EXACTNESS = (
    "Sequences were split over ranks exactly: every token's loss and gradient is that of one process which "
    "reads the whole sequence, so nothing about the weights depends on how many ranks trained them."
)


def render(
    title: str,
    config: TTTConfig,
    source: Source,
    tokenizer: Tokenizer | None,
    training: Facts,
    notes: Sequence[str] = (),
) -> str:
    """Write the card.

    Args:
        title: name of the model.
        config: of the model.
        source: of its tensors.
        tokenizer: whose ids it has; None: it is not known.
        training: what is known of its training, by what it is; none for weights from elsewhere.
        notes: further sentences, such as where the weights come from.
    """
    kinds = kinds_of(config)
    sections = [
        f"# {_plain(title)}",
        f"A Test-Time-Training language model ({', '.join(map(_plain, kinds))}; [arXiv 2407.04620]"
        "(https://arxiv.org/abs/2407.04620)). Its layers keep what they have read in inner weights of one "
        "size, so that neither memory nor the time of a token grows with the context.",
        "\n".join(f"- {_plain(note)}" for note in notes),
        _table("Model", _shape(config, source) | _tokenizer(tokenizer)),
        _table("Training", training),
        _EXACTNESS if training else "",
        _usage(tokenizer),
    ]
    return _front(kinds) + "\n\n".join(section for section in sections if section) + "\n"


def _front(kinds: Sequence[str]) -> str:
    """The block that model hubs read."""
    tags = ["test-time-training", "long-context", *(k for k in kinds if k.startswith("ttt-"))]
    lines = ["---", "library_name: tttscale", "pipeline_tag: text-generation", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---", "", ""])


def _shape(config: TTTConfig, source: Source) -> dict[str, str]:
    backbone = [
        name
        for name, is_on in {
            "shared q and k with convolutions": config.share_qk,
            "gate": config.use_gate,
            "convolution in front": config.pre_conv,
        }.items()
        if is_on
    ]
    dtypes = widest({stored.dtype for stored in source.tensors.values()})
    return {
        "parameters": f"{source.parameters:,}",
        "layers": f"{config.num_hidden_layers} of width {config.hidden_size:,}",
        "heads": f"{config.num_attention_heads} of {config.head_dim}",
        "feed-forward": f"{config.intermediate_size:,}",
        "backbone": ", ".join(backbone) or "plain",
        "mini-batch": f"{config.mini_batch_size} tokens",
        "inner learning rate": f"{config.ttt_base_lr:g}",
        "vocabulary": f"{config.vocab_size:,}",
        "weights taken from": dtype_name(dtypes),
    }


def _tokenizer(tokenizer: Tokenizer | None) -> dict[str, str]:
    if tokenizer is None:
        return {"tokenizer": "not known"}
    named = {role: name for role, name in special_names(tokenizer).items() if name is not None}
    special = ", ".join(f"{role} `{name}`" for role, name in named.items())
    return {
        "tokenizer": f"{_plain(tokenizer.name)}, sha256 `{tokenizer.digest}`",
        "special tokens": special or "none",
    }


def _usage(tokenizer: Tokenizer | None) -> str:
    named = "" if tokenizer is not None else " --tokenizer TOKENIZER"
    return (
        "## Use\n\nWith tttscale, FOLDER being this one:\n\n"
        f'```bash\ntttscale generate FOLDER "Once upon a time"{named}\n```\n\n'
        "```python\nfrom tttscale.model import TTTForCausalLM\n\n"
        'model = TTTForCausalLM.from_pretrained("FOLDER")\n```\n\n'
        "With transformers 4.57 or later, and tttscale installed:\n\n"
        "```python\nimport tttscale.hf\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n```\n\n'
        f"Written by tttscale {__version__}."
    )


def _table(heading: str, facts: Facts) -> str:
    rows = [f"| {_plain(name)} | {_cell(value)} |" for name, value in facts.items() if value]
    return "\n".join([f"## {heading}", "", "| | |", "|---|---|", *rows]) if rows else ""


def _plain(text: str) -> str:
    """A text of one line without credentials, in which markdown sees no HTML."""
    words = " ".join(scrubbed(text).split())
    return "".join(c for c in words if c.isprintable()).replace("<", "&lt;")


def _cell(text: str) -> str:
    words = " ".join(scrubbed(text).split())
    return "".join(c for c in words if c.isprintable()).replace("|", "\\|")
