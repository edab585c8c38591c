"""Tasks `passkey` and `needle`: find in a long text what stands at some depth of it.

The text is read once, split over the ranks. From what the model then knows, every possible answer is
scored by its likelihood; nothing is sampled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError
from tttscale.evaluate.intervals import mean_interval, wilson
from tttscale.evaluate.made_text import Haystack, MadeSequence, encode, encode_answers
from tttscale.evaluate.passes import Passes, Seen
from tttscale.evaluate.scores import interval, logits_after
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder

CHOICES = {"passkey": 10, "needle": 8}
"""Answers to choose from, the right one among them."""
TITLES = {"passkey": "passkey", "needle": "needle among 8 needles"}
_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
_HEADS = {
    "passkey": "A pass key stands somewhere in this text. Remember it.\n",
    "needle": "Numbers of houses stand in this text. Remember them.\n",
}
_TRIES = 1000
_ANSWERS_AT_ONCE = 16
"""Answers that are read side by side, at most: each has a state of its own."""


@dataclass(frozen=True)
class Question:
    """A sequence that ends where an answer would begin, and the answers."""

    sequence: MadeSequence
    answers: list[np.ndarray]
    """Token ids; the first answer is the right one."""


def make_question(
    task: str,
    tokenizer: Tokenizer,
    hay: Haystack,
    length_tokens: int,
    depth: float,
    rng: np.random.Generator,
) -> Question:
    """Write one sample.

    Args:
        task: passkey or needle.
        tokenizer: of the model.
        hay: the text around.
        length_tokens: of the sequence.
        depth: of what is asked for: 0 the beginning, 1 the end.
        rng: the only source of random numbers.

    Raises:
        ConfigError: the length is too short for it.
    """
    keys = [
        str(key) for key in rng.choice(np.arange(10_000, 100_000), CHOICES[task], replace=False)
    ]
    if task == "passkey":
        needles = [f" The pass key is {keys[0]}. Remember: {keys[0]} is the pass key. "]
        question = "\nWhat is the pass key? The pass key is"
    else:
        colours = rng.permutation(_COLOURS).tolist()
        needles = [
            f" The number of the {colour} house is {key}. "
            for colour, key in zip(colours, keys, strict=True)
        ]
        question = f"\nWhat is the number of the {colours[0]} house? The number of the {colours[0]} house is"
    asked, answers = encode_answers(tokenizer, question, [f" {key}" for key in keys])
    head = encode(tokenizer, _HEADS[task])
    if tokenizer.bos_id is not None:
        head = np.concatenate([[tokenizer.bos_id], head])
    written = [encode(tokenizer, needle) for needle in needles]
    end = length_tokens - len(asked)
    places = _places(len(head), end, [len(needle) for needle in written], depth, rng)
    if places is None:
        least = len(head) + len(asked) + 2 * sum(map(len, written))
        raise ConfigError(
            f"--lengths {length_tokens:,}: too short for {task}, which takes about {least:,} tokens with the "
            f"tokenizer {tokenizer.name}. Give longer ones."
        )
    texts = [(0, head), *zip(places, written, strict=True), (end, asked)]
    return Question(MadeSequence(hay, texts), answers)


def _places(
    begin: int, end: int, sizes: Sequence[int], depth: float, rng: np.random.Generator
) -> list[int] | None:
    """Where needles stand between `begin` and `end`: the first at its depth, the others anywhere else."""
    room = end - begin - sizes[0]
    if room < 2 * sum(sizes[1:]):
        return None
    places = [begin + round(depth * room)]
    for size in sizes[1:]:
        for _ in range(_TRIES):
            at = int(rng.integers(begin, end - size + 1))
            taken = zip(places, sizes, strict=False)
            if all(at + size <= other or other + length <= at for other, length in taken):
                places.append(at)
                break
        else:
            return None
    return places


class AnswerScores:
    """Log-likelihoods of every answer of every question, on the ranks where the questions end."""

    def __init__(
        self, passes: Passes, vocabulary: int, answers: Sequence[Sequence[np.ndarray]]
    ) -> None:
        """Score nothing yet.

        Args:
            passes: of the questions' length, which is a multiple of the model's alignment.
            vocabulary: ids of the tokenizer.
            answers: of each question, all of one number.
        """
        self._model, self._vocabulary, self._answers = passes.model, vocabulary, answers
        self._first: dict[int, Tensor] = {}
        """By first row of a batch: log-probabilities of the token after the question, [B, V]."""
        self.table = torch.zeros(len(answers), len(answers[0]) + 1, dtype=torch.float64)
        """By question: log-likelihood of each answer, and whether the first is exact (all its tokens)."""

    def see(self, seen: Seen) -> None:
        """Keep what is likely after a question."""
        if seen.is_last:
            logits = logits_after(self._model, seen.x[:, -1:], self._vocabulary)
            self._first[seen.rows.start] = logits[:, 0].log_softmax(-1)

    @torch.no_grad()
    def ended(self, rows: range, state: DecodeState) -> None:
        """Score the answers of some questions from their states."""
        first = self._first.pop(rows.start)
        tasks = [(i, a) for i in range(len(rows)) for a in range(self.table.shape[1] - 1)]
        by_length: dict[int, list[tuple[int, int]]] = {}
        for i, a in tasks:
            by_length.setdefault(len(self._answers[rows[i]][a]), []).append((i, a))
        for group in by_length.values():
            for at in range(0, len(group), _ANSWERS_AT_ONCE):
                self._score(rows, state, first, group[at : at + _ANSWERS_AT_ONCE])

    def _score(
        self, rows: range, state: DecodeState, first: Tensor, group: list[tuple[int, int]]
    ) -> None:
        """Score answers of one length: pairs of a row of the batch and an answer."""
        ids = torch.from_numpy(np.stack([self._answers[rows[i]][a] for i, a in group]))
        ids = ids.to(first.device)
        before = first[[i for i, _ in group]].unsqueeze(1)
        if ids.shape[1] > 1:
            decoder = Decoder(self._model, state.rows([i for i, _ in group]))
            after = decoder.read_all(ids[:, :-1])[..., : self._vocabulary]
            before = torch.cat([before, after.log_softmax(-1)], dim=1)
        likely = before.gather(-1, ids.unsqueeze(-1)).squeeze(-1).double().sum(1)
        exact = (before.argmax(-1) == ids).all(1)
        for (i, a), value, right in zip(group, likely.tolist(), exact.tolist(), strict=True):
            self.table[rows[i], a] = value
            if a == 0:
                self.table[rows[i], -1] = right


def score_questions(
    passes: Passes,
    questions: Sequence[Question],
    vocabulary: int,
    summed: Callable[[Tensor], Tensor],
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Score the questions of one cell; every rank calls this and has the result.

    Args:
        passes: of their length.
        questions: all with the same number of answers.
        vocabulary: ids of the tokenizer.
        summed: sums a tensor over the ranks, in place.
        told: is told how many questions are done.
    """
    scores = AnswerScores(passes, vocabulary, [question.answers for question in questions])
    passes.run([question.sequence for question in questions], scores.see, scores.ended, told)
    table = summed(scores.table)
    likely, exact = table[:, :-1], table[:, -1]
    # A tie is no right choice: a model that knows nothing would win them all.
    chosen = (likely[:, :1] > likely[:, 1:]).all(1)
    tokens = [float(len(question.answers[0])) for question in questions]
    return {
        "samples": len(questions),
        "chosen": interval(wilson(float(chosen.sum()), len(questions))),
        "exact": interval(wilson(float(exact.sum()), len(questions))),
        "loss": interval(mean_interval((-likely[:, 0]).tolist(), tokens)),
    }
