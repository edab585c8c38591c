"""A model and a tokenizer that read texts and reply, one after the other; the state stays between them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError, DataError
from tttscale.generate.text_stream import TextStream
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.sampling import Sampler, Sampling

Reader = Callable[[Decoder, Tensor, Callable[[int], None]], Tensor]
"""Reads ids [1, T] into a decoder and tells how many have been read; returns logits, as `Decoder.read`."""


@dataclass
class Figures:
    """Tokens and seconds."""

    clock: Callable[[], float] = time.perf_counter
    tokens: dict[str, int] = field(default_factory=lambda: {"read": 0, "generated": 0})
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "generated": 0.0})

    def add(self, what: str, tokens: int, since: float) -> float:
        """Count tokens that took the time since a reading of the clock; return the time now."""
        now = self.clock()
        self.tokens[what] += tokens
        self.seconds[what] += now - since
        return now

    def render(self) -> str:
        """Format them for people."""
        return ", ".join(
            f"{what} {count:,} tokens in {self.seconds[what]:.2f} s"
            + (f" ({count / self.seconds[what]:,.1f} a second)" if self.seconds[what] else "")
            for what, count in self.tokens.items()
        )


class Session:
    """What has been read and written so far. Interrupted at any time, it can continue."""

    def __init__(
        self,
        model: TTTForCausalLM,
        tokenizer: Tokenizer,
        sampling: Sampling,
        state: DecodeState | None = None,
        reader: Reader = Decoder.read,
    ) -> None:
        """Begin, or continue from a state of one row.

        Args:
            model: of the state, if there is one.
            tokenizer: of the model.
            sampling: how tokens are chosen.
            state: it is not changed.
            reader: how prompts are read.
        """
        self._model, self._tokenizer, self._reader = model, tokenizer, reader
        self._decoder = Decoder(model, state)
        self._sampler = Sampler(sampling, 1)
        logits = self._decoder.state.logits
        self._logits = None if logits is None else self._of_text(logits)
        self._written: list[int] = []
        """Tokens of the last reply, which stand from `_begin` on; the last may not have been read yet."""
        self._begin = self.position
        self.figures = Figures()

    @property
    def position(self) -> int:
        """Tokens read."""
        return self._decoder.state.positions[0]

    def read(self, text: str | bytes, told: Callable[[int, int], None] = lambda *_: None) -> None:
        """Read a text; the first one of all begins with the tokenizer's bos, as documents of a store do.

        An empty text continues what was read last, or the state.

        Args:
            text: UTF-8, or any bytes for the byte tokenizer.
            told: is told how many of how many tokens have been read.

        Raises:
            ConfigError: there is nothing to read.
            DataError: it cannot be encoded, or not for this model.
        """
        ids = [*self._unread(), *self._encoded(text)]
        if not ids:
            return
        before, begun = self._decoder.state, self.figures.clock()
        try:
            self._logits = self._take(ids, lambda done: told(done, len(ids)), self._reader)
        except BaseException:
            self._decoder.state = before
            raise
        self.figures.add("read", len(ids), begun)
        self._written, self._begin = [], self.position

    def reply(self, tokens: int, stops: Sequence[str] = ()) -> Iterator[str]:
        """Write on from what was read last.

        Args:
            tokens: at most; the tokenizer's eos ends it before, and is neither shown nor read.
            stops: strings that end it before, and are not shown.

        Yields:
            Pieces of text, each of whole characters.
        """
        assert self._logits is not None
        stream, now = TextStream(self._tokenizer, stops), self.figures.clock()
        for count in range(tokens):
            if count:
                self._logits = self._take(self._unread())
            (token,) = self._sampler.draw(self._logits, [0])
            now = self.figures.add("generated", 1, now)
            if token == self._tokenizer.eos_id:
                break
            self._written.append(token)
            if text := stream.add(token):
                yield text
            if stream.is_stopped:
                break
            now = self.figures.clock() if text else now
        if text := stream.rest():
            yield text

    def state(self) -> DecodeState:
        """Return what the model knows after all that was read and written."""
        if unread := self._unread():
            self._logits = self._take(unread)
        return self._decoder.state

    def _unread(self) -> list[int]:
        return self._written[self.position - self._begin :]

    def _take(
        self,
        ids: list[int],
        told: Callable[[int], None] = lambda done: None,
        reader: Reader = Decoder.read,
    ) -> Tensor:
        device = self._model.model.embed_tokens.weight.device
        return self._of_text(reader(self._decoder, torch.tensor([ids], device=device), told))

    def _of_text(self, logits: Tensor) -> Tensor:
        """Drop logits beyond the tokenizer's tokens: a vocabulary may be padded, no text has such tokens."""
        return logits[:, : self._tokenizer.vocab_size]

    def _encoded(self, text: str | bytes) -> list[int]:
        try:
            ids = self._tokenizer.encode(text).tolist()
        except UnicodeDecodeError as error:
            raise DataError(
                f"the prompt is not UTF-8 (byte {error.start}), which the tokenizer {self._tokenizer.name} "
                "needs. Convert the text first"
            ) from None
        if self.position == 0 and not self._written and self._tokenizer.bos_id is not None:
            ids.insert(0, self._tokenizer.bos_id)
        if not ids and not self._unread() and self._logits is None:
            raise ConfigError(
                f"the prompt is empty, and the tokenizer {self._tokenizer.name} has no bos to begin with. "
                "Give a PROMPT, - for stdin, or --file"
                if self.position == 0
                else "the prompt is empty, and the state has no logits to continue from: give a PROMPT, - "
                "for stdin, or --file"
            )
        vocabulary = self._model.config.vocab_size
        if max(ids, default=0) >= vocabulary:
            raise DataError(
                f"the tokenizer {self._tokenizer.name} makes the token {max(ids)}, and the vocabulary of the "
                f"model is 0 to {vocabulary - 1}. Name the model's own tokenizer with --tokenizer"
            )
        return ids
