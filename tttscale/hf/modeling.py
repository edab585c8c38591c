"""The language model as a model of transformers: its loading, saving and `generate`, our arithmetic."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tttscale.errors import CheckpointError, ConfigError
from tttscale.files import write_text
from tttscale.hf.arguments import (
    REFUSED,
    checked_ids,
    one_cache,
    real_tokens,
    refuse,
    take_cache,
)
from tttscale.hf.cache import TTTCache
from tttscale.hf.configuration import TTTConfig
from tttscale.hf.library import CACHE, TIED, Output, first_column, transformers
from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.model.architecture import TTTConfig as Shape
from tttscale.model.auto_map import CODE, CODE_NAME
from tttscale.model.language_model import TTTForCausalLM as Core
from tttscale.model.padded import labels_of_padded, whole_padded
from tttscale.model.registry import check_pattern, kinds_of, mixer_class
from tttscale.model.ttt_layer import TTTLayer

_SHOWN = 3
_TABLES = r"rotary_emb\.inv_freq", r"seq_modeling_block\.token_idx"
"""What older files hold beside the weights."""


class TTTForCausalLM(transformers.PreTrainedModel, transformers.GenerationMixin):
    """A TTT language model of transformers, with the official state_dict keys."""

    config_class = TTTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = True
    _is_stateful = True
    _tied_weights_keys = TIED
    _keys_to_ignore_on_load_unexpected: ClassVar = list(_TABLES)

    def __init__(self, config: TTTConfig, *args: Any, **kwargs: Any) -> None:
        """Make a model with random weights, from torch's global generator.

        Raises:
            ConfigError: the configuration names a layer that is not there, or not imported.
        """
        super().__init__(config, *args, **kwargs)
        self._shape = config.architecture()
        core = _built(self._shape)
        self.model, self.lm_head = core.model, core.lm_head
        self._made = list(_tables(core)) if torch.get_default_device().type == "meta" else []
        """Tensors that are in no file; transformers 5 loses them when it loads."""
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # its weights are drawn already
        self.post_init()
        if self.generation_config is not None:  # config.json says false, as the official one does
            self.generation_config.use_cache = True

    @classmethod
    def from_pretrained(
        cls, name: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a folder, as any model of transformers does, but no pickles and not a part of the weights.

        Raises:
            CheckpointError: weights are missing, or of other shapes than the configuration says.
        """
        kwargs.setdefault("use_safetensors", True)
        model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        for what in ("missing_keys", "mismatched_keys"):
            if found := sorted(map(str, info.get(what, ()))):
                more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
                raise CheckpointError(
                    f"{name}: its weights do not fit its configuration ({what.replace('_', ' ')}: "
                    f"{', '.join(found[:_SHOWN])}{more}). Random weights in their place would be another "
                    "model; put back the files that were written together"
                )
        for owner, buffer, value in model._made:
            setattr(owner, buffer, value.to(getattr(owner, buffer).device))
        model._made = []
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write a folder, as any model of transformers does, that loads with `trust_remote_code`."""
        if kwargs.get("is_main_process", True):
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / CODE_NAME, CODE)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModelForCausalLM") -> None:
        """Leave the class where it is: a saved folder imports it, so its source is not copied there."""

    @property
    def core(self) -> Core:
        """The same model without transformers: its modules as one of `tttscale.model`."""
        if self.config.vocab_size != self._shape.vocab_size:  # resize_token_embeddings
            self._shape = self.config.architecture()
        return Core.of_modules(self._shape, self.model, self.lm_head)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: TTTCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: TTTCache | None = None,
        **others: Any,
    ) -> Any:
        """Run whole sequences with a graph; or, with a cache, read tokens after those before, without one.

        Args:
            input_ids: int64 [B, T].
            attention_mask: [B, T], or with all columns before them: 0 at padding, wherever it stands. No row
                reads its padding, and the logits there are those after the token before it.
            past_key_values: what has been read before; it is updated.
            labels: int64 [B, T]; shifted here, -100 for places that do not count, as padding does not.
            use_cache: make a cache if none is given; None: as the configuration says, but not with labels.
            logits_to_keep: the last so many columns only, or those of these indices; 0: all.
            return_dict: False returns a tuple.
            num_items_in_batch: what to divide the sum of the losses by; None: the labels that count.
            cache: the later name of past_key_values.
            others: arguments of other models, which are refused unless they ask for nothing.

        Returns:
            CausalLMOutputWithPast: logits fp32 (or wider) [B, T, V], the loss, the cache.

        Raises:
            ConfigError: a row has no token, or an argument cannot be used.
        """
        refuse(others)
        ids, cache = checked_ids(input_ids), one_cache(past_key_values, cache)
        if use_cache is None:
            use_cache = self.config.use_cache and labels is None
        if cache is None and use_cache:
            cache = TTTCache()
        real = real_tokens(attention_mask, ids, 0 if cache is None else cache.columns)
        if cache is None:
            core = self.core
            logits = core(ids).logits if real is None else whole_padded(core, ids, real)
        else:
            only = labels is None and isinstance(logits_to_keep, int) and logits_to_keep == 1
            logits = cache.read(self.core, ids, real, last_only=only)
        loss = None
        if labels is not None:
            labels = labels if real is None else labels_of_padded(labels, real)
            loss = _loss(logits, labels, num_items_in_batch)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        made = Output(loss=loss, logits=logits[:, kept], **{CACHE: cache})
        wants_dict = (
            getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        )
        return made if wants_dict else made.to_tuple()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: TTTCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        cache: TTTCache | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Choose what the next call reads: the columns that the cache has not."""
        cache = one_cache(past_key_values, cache)
        if cache is not None:
            width = input_ids.shape[1]
            begin = first_column(others, width)
            if begin >= width:
                raise ConfigError(
                    f"input_ids has {width} columns, and the cache has read {cache.columns}: give the whole "
                    "text so far and what follows, or TTTCache(cache.state) and only what follows"
                )
            input_ids = input_ids[:, begin:]
        return {
            "input_ids": input_ids,
            CACHE: cache,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
            "logits_to_keep": 0 if logits_to_keep is None else logits_to_keep,
        }

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Make a cache for `generate`, unless there is one or none is wanted."""
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic", "dynamic_full"):
            raise ConfigError(
                f"cache_implementation = {kind!r}: a TTT model has one kind of cache, of one size. Leave it "
                "out"
            )
        cache = take_cache(model_kwargs)
        if cache is None and generation_config.use_cache is not False:
            cache = TTTCache()
        if cache is not None:
            model_kwargs[CACHE] = cache

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat each row for its beams or samples; a cache that was given stays as it is."""
        ids, expanded = super()._expand_inputs_for_generation(expand_size, *args, **kwargs)
        cache = take_cache(expanded)
        if cache is not None:
            if expand_size > 1:
                cache = cache.copy()
                cache.batch_repeat_interleave(expand_size)
            expanded[CACHE] = cache
        return ids, expanded

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Refuse arguments of `generate` that would not be looked at.

        Raises:
            ConfigError: there is one that other models know.
            ValueError: there is one that none knows.
        """
        refuse({name: value for name, value in model_kwargs.items() if name in REFUSED})
        super()._validate_model_kwargs(model_kwargs)

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse prompts that have no token.

        Raises:
            ConfigError: so it is.
        """
        found = super()._prepare_model_inputs(*args, **kwargs)
        checked_ids(found[0])
        return found

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what is made after the model: an embedding or head of another size."""
        if isinstance(module, nn.Embedding | nn.Linear):
            with torch.no_grad():
                module.weight.normal_(0, self.config.initializer_range)


def _built(shape: Shape) -> Core:
    """A model with random weights, or on the meta device where transformers is about to load some."""
    try:
        check_pattern(shape, may_import=False)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if torch.get_default_device().type != "meta":
        return Core(shape, seed=int(torch.randint(2**62, (), device="cpu")))
    if all(issubclass(mixer_class(name), TTTLayer) for name in kinds_of(shape)):
        return Core(shape)
    with torch.device("cpu"):  # a layer of someone's own may hold tensors that are in no file
        return Core(shape)


def _tables(core: Core) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield the buffers that are not saved: where each is, and its value."""
    for module in core.modules():
        for name in sorted(module._non_persistent_buffers_set):
            if (value := getattr(module, name)) is not None:
                yield module, name, value


def _loss(logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
    """Cross-entropy of the next token: the mean, or the sum divided by `items`."""
    loss = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="mean" if items is None else "sum",
    )
    return loss if items is None else loss / items
