"""The tasks of `tttscale eval`, each measured on all ranks of a job."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tttscale.comm.mesh import Mesh
from tttscale.data.progress import Progress, shown_progress
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError, DataError
from tttscale.evaluate import made_symbols, retrieval
from tttscale.evaluate.held_out import Text, chosen_count, open_text
from tttscale.evaluate.inner import inner_by_position
from tttscale.evaluate.loss import loss_by_position
from tttscale.evaluate.made_symbols import Alphabet, make_sequence
from tttscale.evaluate.made_text import Excerpt, Haystack, Repeated
from tttscale.evaluate.options import Options
from tttscale.evaluate.passes import Passes, Split
from tttscale.evaluate.retrieval import make_question, score_questions
from tttscale.evaluate.scores import score_asked
from tttscale.evaluate.subject import Subject
from tttscale.scan.layout import Kind
from tttscale.scan.reader import TokenSequence

DEFAULT_LENGTHS = (1 << 10, 4 << 10, 16 << 10)
_TOKENS_AT_ONCE = 8192
"""The most tokens of a chunk of several samples side by side."""


_Hays = Callable[[np.random.Generator, int], Haystack]


class Evaluation:
    """One rank's share of measuring a model."""

    def __init__(self, subject: Subject, mesh: Mesh, options: Options) -> None:
        self._subject, self._mesh, self._options = subject, mesh, options

    def measure(self, task: str) -> dict[str, Any]:
        """Run a task; every rank calls this and has the result, as eval.json has it."""
        how = {"command": self._options.command, "seed": self._options.seed}
        return {**how, **getattr(self, f"_{task.replace('-', '_')}")()}

    def _loss(self) -> dict[str, Any]:
        length = self._length()
        text = self._text()
        windows = self._windows(text, length)
        passes = self._passes(length)
        with self._progress(len(windows)) as told:
            found = loss_by_position(passes, windows, self._mesh.sum_on_cpu, told)
        if text.tokens_per_byte is not None and found["bits_per_token"] is not None:
            found["bits_per_byte"] = found["bits_per_token"] * text.tokens_per_byte
        return {"text": text.describe(), **self._how(passes.split), **found}

    def _inner(self) -> dict[str, Any]:
        length = self._length()
        text = replace(self._text(), documents="ignore")
        windows = self._windows(text, length)
        passes = self._passes(length)
        with self._progress(len(windows)) as told:
            found = inner_by_position(passes, windows, self._mesh.sum_on_cpu, told)
        return {"text": text.describe(), **self._how(passes.split), **found}

    def _passkey(self) -> dict[str, Any]:
        return self._retrieval("passkey")

    def _needle(self) -> dict[str, Any]:
        return self._retrieval("needle")

    def _retrieval(self, task: str) -> dict[str, Any]:
        tokenizer, depths = self._subject.tokenizer(), _depths(self._options.depths)
        cells, split = [], None
        lengths, around = self._lengths(multiple=True), self._around()
        hays = self._hays(tokenizer, around)
        plans = {length: self._passes(length, self._options.samples) for length in lengths}
        questions = {
            (length, depth): [
                make_question(task, tokenizer, hays(rng, length), length, depth, rng)
                for rng in self._randoms(task, length, number)
            ]
            for length in lengths
            for number, depth in enumerate(depths)
        }  # all of them before the first is read: what is too short is said at once
        with self._progress(len(questions)) as told:
            for done, ((length, depth), asked) in enumerate(questions.items(), start=1):
                passes = plans[length]
                split = passes.split
                found = score_questions(passes, asked, tokenizer.vocab_size, self._mesh.sum_on_cpu)
                cells.append({"length": length, "depth": depth, **found})
                told(done)
        assert split is not None
        what = {"title": retrieval.TITLES[task], "choices": retrieval.CHOICES[task]}
        text = [] if around is None else around.describe()
        return {"text": text, **self._how(split), **what, "cells": cells}

    def _recall(self) -> dict[str, Any]:
        return self._symbols("recall")

    def _copy(self) -> dict[str, Any]:
        return self._symbols("copy")

    def _state_tracking(self) -> dict[str, Any]:
        return self._symbols("state-tracking")

    def _symbols(self, task: str) -> dict[str, Any]:
        tokenizer = self._subject.tokenizer()
        alphabet, around = Alphabet.of(tokenizer), self._around()
        lengths, hays = self._lengths(multiple=False), self._hays(tokenizer, around)
        cells, split = [], None
        with self._progress(len(lengths) * len(made_symbols.KINDS[task])) as told:
            for kind in made_symbols.KINDS[task]:
                choices = torch.from_numpy(alphabet.choices(kind))
                for length in lengths:
                    made = [
                        make_sequence(kind, alphabet, hays(rng, length), length, rng)
                        for rng in self._randoms(kind, length)
                    ]
                    passes = self._passes(length, self._options.samples)
                    split = passes.split
                    found = score_asked(
                        passes, made, choices, tokenizer.vocab_size, self._mesh.sum_on_cpu
                    )
                    cells.append({"kind": kind, "length": length, **found})
                    told(len(cells))
        assert split is not None
        return {
            "text": [] if around is None else around.describe(),
            **self._how(split),
            "title": made_symbols.TITLES[task],
            "cells": cells,
        }

    def _text(self) -> Text:
        subject, asked = self._subject, self._options
        text = open_text(
            subject.config,
            store=asked.store,
            split=asked.split,
            vocabulary=subject.model.config.vocab_size,
            tokenizer_digest=subject.tokenizer_digest(),
            alignment=subject.alignment,
        )
        own = " ".join(store["fingerprint"] for store in text.describe())
        first, *others = self._mesh.gather_texts(own)
        for rank, other in enumerate(others, start=1):
            if other != first:
                raise DataError(
                    f"the store of rank {rank} (fingerprint {other}) differs from rank 0's ({first}). Give "
                    "all hosts the same store, and compare with `tttscale data info`."
                )
        return text

    def _windows(self, text: Text, length: int) -> list[TokenSequence]:
        source = text.windows(length)
        return [source.window(i) for i in range(chosen_count(source, self._options.sequences))]

    def _hays(self, tokenizer: Tokenizer, text: Text | None) -> _Hays:
        """What gives the text around a sample: a stretch of the store, else a repeated one."""
        if text is None:
            repeated = Repeated.of(tokenizer)
            return lambda rng, length: repeated
        ((name, _, split, _),) = text.stores

        def excerpt(rng: np.random.Generator, length: int) -> Haystack:
            """Some stretch of the store."""
            if split.num_tokens <= length:
                raise DataError(
                    f"--lengths {length:,}: {name}, {split.name} has {split.num_tokens:,} tokens, too few to "
                    "surround a sample. Give smaller lengths, another --split (such as train), or a --store "
                    "of more text."
                )
            return Excerpt(split, int(rng.integers(0, split.num_tokens - length)))

        return excerpt

    def _around(self) -> Text | None:
        """The store around samples; None if there is none."""
        return None if self._options.store is None else self._text()

    def _randoms(self, task: str, length: int, cell: int = 0) -> list[np.random.Generator]:
        """A source of random numbers for each sample of a cell; the same whatever else is measured."""
        name = zlib.crc32(task.encode())
        return [
            np.random.default_rng([self._options.seed, name, length, cell, sample])
            for sample in range(self._options.samples)
        ]

    def _lengths(self, multiple: bool) -> tuple[int, ...]:
        lengths = tuple(sorted({*(self._options.lengths or DEFAULT_LENGTHS)}))
        unit = self._subject.alignment
        odd = next((n for n in lengths if n % unit), None)
        if multiple and odd is not None:
            raise ConfigError(
                f"--lengths {odd:,}: not a multiple of {unit}, the model's mini-batch, which has to be "
                f"closed where answers begin. The nearest that is: {max(1, round(odd / unit)) * unit:,}"
            )
        return lengths

    def _length(self) -> int:
        length = self._options.length or self._subject.trained_tokens
        if length is None:
            raise ConfigError(
                "--length is missing: a model's folder does not say at which length it was trained. "
                "Give one, such as --length 64Ki, or a run's folder."
            )
        return length

    def _passes(self, length: int, batch: int = 1) -> Passes:
        asked, subject, ranks = self._options, self._subject, self._mesh.world_size
        kind: Kind = "striped" if subject.config is None else subject.config.parallel.layout
        chunk = subject.chunk_tokens(length, ranks, asked.chunk)
        autocast = torch.bfloat16 if asked.precision == "bf16" else None
        split = Split(length, chunk, asked.layout or kind, autocast)
        batch = min(batch, max(1, _TOKENS_AT_ONCE // chunk))
        return Passes(subject.model, self._mesh.transport, split, batch)

    def _how(self, split: Split) -> dict[str, Any]:
        return {
            "chunk": split.chunk_tokens,
            "layout": split.kind,
            "ranks": self._mesh.world_size,
            "precision": self._options.precision,
            "trained_tokens": self._subject.trained_tokens,
        }

    def _progress(self, total: int) -> "_Shown":
        return _Shown(self._mesh.rank == 0, total)


def _depths(count: int) -> list[float]:
    """So many depths, evenly from 0 to 1; a single one is the middle."""
    return [0.5] if count == 1 else [n / (count - 1) for n in range(count)]


class _Shown:
    """Progress of a task on rank 0."""

    def __init__(self, shown: bool, total: int) -> None:
        self._context, self._total = shown_progress(shown), total

    def __enter__(self) -> Callable[[int], None]:
        show = self._context.__enter__()
        return lambda done: show(Progress("evaluate", done, self._total))

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
