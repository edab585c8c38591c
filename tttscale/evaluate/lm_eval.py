"""A model for lm-evaluation-harness, which knows it as `tttscale` once this module is imported.

    python -m tttscale.evaluate.lm_eval --model tttscale --model_args pretrained=runs/quickstart --tasks ...

is `lm_eval` with that name known. A context that several continuations share is read once, and each is
scored from the state after it. Long documents are read in one pass: a model whose state has one size
needs no windows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError, TTTScaleError
from tttscale.generate.session import Session
from tttscale.model import TTTForCausalLM
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder
from tttscale.model.sampling import Sampling
from tttscale.packages import needed
from tttscale.train.model_source import model_folder, model_tokenizer

with needed(
    "lm_eval",
    "The model for lm-evaluation-harness",
    "Run `pip install 'tttscale[eval]'`.",
    TTTScaleError,
):
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

_PIECE_TOKENS = 2048
"""Tokens of a long document whose logits are held at once."""
_REPLY_TOKENS = 256
"""Where a task does not say how long a reply may be; as in the harness's own models."""

Pair = tuple[tuple[str, str], list[int], list[int]]
"""A request of the harness: texts of a context and its continuation, and their tokens."""


@register_model("tttscale")
class TTTScaleLM(TemplateLM):
    """A trained model, as the harness asks for it."""

    def __init__(
        self,
        pretrained: str,
        tokenizer: str | None = None,
        batch_size: int | str = 64,
        max_batch_size: int | None = None,
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        """Load a model.

        Args:
            pretrained: a run's folder, or a model's.
            tokenizer: bytes, or a tokenizer.json; None: the model's own, or its training data's.
            batch_size: continuations of one context that are scored side by side; "auto" is 64.
            max_batch_size: a bound on it.
            device: of torch; None: a GPU. Without one it is the CPU.
            seed: of the draws, for tasks that sample.

        Raises:
            TTTScaleError: it cannot be loaded.
        """
        super().__init__()
        folder, _ = model_folder(Path(pretrained))
        on = device or "cuda"
        if on.startswith("cuda") and not torch.cuda.is_available():
            on = "cpu"  # the harness's command asks for a GPU wherever it runs
        self.model = TTTForCausalLM.from_pretrained(folder).to(on)
        self.tokenizer: Tokenizer = model_tokenizer(folder, tokenizer)
        size = 64 if str(batch_size).startswith("auto") else int(batch_size)
        self._batch = max(1, min(size, max_batch_size or size))
        self._device, self._seed = torch.device(on), seed
        if self.prefix_token_id is None:
            raise ConfigError(
                f"the tokenizer {self.tokenizer.name} has neither bos nor eos, one of which stands in front "
                "of a document. Name them when the store is built (tttscale data build --bos)."
            )

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a document."""
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int | None:
        """The token in front of a document, as stores have it."""
        bos, eos = self.tokenizer.bos_id, self.tokenizer.eos_id
        return eos if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches."""
        return self.tokenizer.name

    @property
    def max_gen_toks(self) -> int:
        """The most tokens of a reply, where a task does not say."""
        return _REPLY_TOKENS

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text, without bos and eos."""
        return self.tokenizer.encode(string).tolist()

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether its tokens are all the likeliest."""
        found: list[tuple[float, bool] | None] = [None] * len(requests)
        for context, places in _by_context(requests).items():
            decoder = Decoder(self.model)
            first = self._log_probabilities(decoder.read(self._ids([self._begun(context)])))
            for part in self._parts(requests, places):
                ids = self._ids([requests[place][2] for place in part])
                scores = self._continued(decoder.state, first, ids)
                for place, score in zip(part, scores, strict=True):
                    found[place] = score
                    self.cache_hook.add_partial("loglikelihood", requests[place][0], score)
        return [score for score in found if score is not None]

    @torch.no_grad()
    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole documents of any length, each in one pass and in constant memory."""
        found = []
        for request in requests:
            (text,) = request.args
            ids = self._ids([self._begun(()) + self.tok_encode(text)])
            decoder, total = Decoder(self.model), 0.0
            for begin in range(0, ids.shape[1] - 1, _PIECE_TOKENS):
                end = min(begin + _PIECE_TOKENS, ids.shape[1] - 1)
                likely = self._log_probabilities(decoder.read_all(ids[:, begin:end]))
                own = likely.gather(-1, ids[:, begin + 1 : end + 1].unsqueeze(-1))
                total += float(own.double().sum())
            found.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, each up to a string that ends it."""
        found = []
        for request in requests:
            context, asked = request.args
            until = asked.get("until") or []
            stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
            session = Session(self.model, self.tokenizer, self._sampling(asked))
            session.read(context)
            tokens = asked.get("max_gen_toks") or asked.get("max_tokens") or self.max_gen_toks
            found.append("".join(session.reply(int(tokens), stops)))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def _sampling(self, asked: dict[str, Any]) -> Sampling:
        """How a task wants tokens to be chosen: the likeliest, unless it samples."""
        if not asked.get("do_sample", float(asked.get("temperature") or 0) > 0):
            return Sampling(0.0, None, None, None, self._seed)
        temperature = asked.get("temperature")
        return Sampling(
            1.0 if temperature is None else float(temperature),
            asked.get("top_k"),
            asked.get("top_p"),
            asked.get("min_p"),
            self._seed,
        )

    def _begun(self, context: Sequence[int]) -> list[int]:
        """Token ids of a context as a document begins: with the prefix, once."""
        prefix = self.prefix_token_id
        assert prefix is not None
        return [*context] if context and context[0] == prefix else [prefix, *context]

    def _parts(self, requests: Sequence[Pair], places: Sequence[int]) -> Iterator[list[int]]:
        """Requests of one context whose continuations have one length, in batches."""
        by_length: dict[int, list[int]] = {}
        for place in places:
            by_length.setdefault(len(requests[place][2]), []).append(place)
        for same in by_length.values():
            for begin in range(0, len(same), self._batch):
                yield same[begin : begin + self._batch]

    def _continued(
        self, state: DecodeState, first: Tensor, ids: Tensor
    ) -> list[tuple[float, bool]]:
        """Score continuations [n, T] from the state after their context."""
        likely = first.unsqueeze(1).expand(len(ids), 1, -1)
        if ids.shape[1] > 1:
            decoder = Decoder(self.model, state.rows([0] * len(ids)))
            rest = self._log_probabilities(decoder.read_all(ids[:, :-1]))
            likely = torch.cat([likely, rest], dim=1)
        own = likely.gather(-1, ids.unsqueeze(-1)).squeeze(-1).double().sum(1)
        greedy = (likely.argmax(-1) == ids).all(1)
        return list(zip(own.tolist(), greedy.tolist(), strict=True))

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """Over the tokenizer's ids: a model's vocabulary may be padded."""
        return logits[..., : self.tokenizer.vocab_size].log_softmax(-1)

    def _ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self._device)


def _by_context(requests: Sequence[Pair]) -> dict[tuple[int, ...], list[int]]:
    """Places of the requests of each context."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, (_, context, _) in enumerate(requests):
        found.setdefault(tuple(context), []).append(place)
    return found


def main() -> None:
    """Run the harness's own command; `tttscale` is one of its models."""
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()


if __name__ == "__main__":
    main()
