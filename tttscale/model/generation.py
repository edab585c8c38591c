"""Generating tokens: prompts are read, then each token is drawn and read in turn; rows end when they like."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tttscale.errors import ConfigError
from tttscale.model.beams import Beams, search
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder
from tttscale.model.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from tttscale.model.language_model import TTTForCausalLM


@dataclass
class Generated:
    """New tokens of each row, and what the model knows after them."""

    ids: list[list[int]]
    """By row: the new tokens; the last one may be one that stops."""
    states: list[DecodeState]
    """By row: the state after prompt and new tokens, all of which have been read."""

    @property
    def state(self) -> DecodeState:
        """One state of all rows, to continue from.

        Raises:
            MixerError: rows have ended at different positions, and a layer cannot have that.
        """
        return DecodeState.joined(self.states)


def generate(
    model: "TTTForCausalLM",
    input_ids: Tensor | Sequence[Sequence[int]] | None,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    state: DecodeState | None = None,
    beams: Beams | None = None,
) -> Generated:
    """Continue prompts; see `TTTForCausalLM.generate`."""
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens = {max_new_tokens}: expected a number from 0.")
    if beams is not None and sampling.temperature > 0:
        raise ConfigError(
            f"beams = {beams.count} with temperature = {sampling.temperature}: beams draw nothing. Set "
            "temperature=0, or beams=1"
        )
    decoder, logits = _begin(model, input_ids, state)
    states = _by_row(decoder.state)
    if beams is not None and max_new_tokens > 0:
        rows = zip(states, logits.split(1), strict=True)
        found = [
            search(Decoder(model, own), of, beams, max_new_tokens, stop_ids) for own, of in rows
        ]
        return Generated([ids for ids, _ in found], [after for _, after in found])
    sampler, live = Sampler(sampling, len(states)), list(range(len(states)))
    ids: list[list[int]] = [[] for _ in states]
    for _ in range(max_new_tokens):
        drawn = sampler.draw(logits, live)
        for row, token in zip(live, drawn, strict=True):
            ids[row].append(token)
        logits = decoder.read(torch.tensor(drawn, device=logits.device)[:, None])
        for row, own in zip(live, _by_row(decoder.state), strict=True):
            states[row] = own
        stays = [i for i, token in enumerate(drawn) if token not in stop_ids]
        if len(stays) < len(live):
            live, logits = [live[i] for i in stays], logits[stays]
            decoder.state = decoder.state.rows(stays)
        if not live:
            break
    return Generated(ids, states)


def _begin(
    model: "TTTForCausalLM",
    input_ids: Tensor | Sequence[Sequence[int]] | None,
    state: DecodeState | None,
) -> tuple[Decoder, Tensor]:
    """Read the prompts, if there are any; return the logits of what follows."""
    if input_ids is None:
        if state is None or state.logits is None:
            what = "there is no state" if state is None else "the state has no logits"
            raise ConfigError(
                f"input_ids is None, and {what} to continue from: give a prompt for each row"
            )
        return Decoder(model, state), state.logits
    prompts = _prompts(model, input_ids)
    if state is not None and len(state.positions) != len(prompts):
        raise ConfigError(
            f"state has {len(state.positions)} rows, and input_ids {len(prompts)}: give a prompt for each row"
        )
    return _read(model, prompts, state)


def _read(
    model: "TTTForCausalLM", prompts: Sequence[Tensor], state: DecodeState | None
) -> tuple[Decoder, Tensor]:
    """Read a prompt for each row: together if all are equally long, else row by row."""
    if len({len(prompt) for prompt in prompts}) == 1:
        decoder = Decoder(model, state, len(prompts))
        return decoder, decoder.read(torch.stack(list(prompts)))
    befores = [None] * len(prompts) if state is None else _by_row(state)
    decoders = [Decoder(model, before) for before in befores]
    logits = [d.read(p[None]) for d, p in zip(decoders, prompts, strict=True)]
    return Decoder(model, DecodeState.joined([d.state for d in decoders])), torch.cat(logits)


def _by_row(state: DecodeState) -> list[DecodeState]:
    """A state of each row, without copies: no one writes into a state."""
    return [
        DecodeState(
            [position],
            [
                {name: tuple(t[row : row + 1] for t in part) for name, part in layer.items()}
                for layer in state.layers
            ],
            None if state.logits is None else state.logits[row : row + 1],
        )
        for row, position in enumerate(state.positions)
    ]


def _prompts(model: "TTTForCausalLM", input_ids: Tensor | Sequence[Sequence[int]]) -> list[Tensor]:
    device = model.model.embed_tokens.weight.device
    rows = [torch.as_tensor(row, dtype=torch.int64, device=device) for row in input_ids]
    if not rows or any(row.dim() != 1 or not len(row) for row in rows):
        raise ConfigError(
            "input_ids: expected one row of token ids or more, each with a token or more"
        )
    vocabulary = model.config.vocab_size
    for number, row in enumerate(rows):
        if int(row.min()) < 0 or int(row.max()) >= vocabulary:
            bad = next(token for token in row.tolist() if not 0 <= token < vocabulary)
            raise ConfigError(
                f"input_ids: row {number} has the token {bad}, and the model's vocabulary is "
                f"0 to {vocabulary - 1}. Encode the text with the model's own tokenizer"
            )
    return rows
