"""What is evaluated: a model, the run that it comes from if it does, and its tokenizer."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tttscale.config import Config, load_config
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError, DataError
from tttscale.generate.state_file import fingerprints
from tttscale.model import TTTForCausalLM
from tttscale.train.model_source import model_folder, model_tokenizer

_DEFAULT_CHUNK = 2048


@dataclass
class Subject:
    """A model that is evaluated."""

    path: Path
    """As the user named it."""
    folder: Path
    """Where its weights are."""
    config: Config | None
    """The configuration of its run; None for a model's folder without one."""
    model: TTTForCausalLM
    notices: tuple[str, ...]
    tokenizer_spec: str | None
    """As `--tokenizer` has it."""

    @classmethod
    def load(cls, path: Path, device: torch.device, tokenizer: str | None = None) -> "Subject":
        """Read the weights.

        Args:
            path: a run's folder, or a model's.
            device: where to compute.
            tokenizer: as `--tokenizer` has it; None: the model's own.

        Raises:
            CheckpointError: there are no weights, or they are damaged.
            ConfigError: the run's configuration is.
        """
        folder, notices = model_folder(path)
        config = _run_config(path)  # first: it knows layers of the user's own
        model = TTTForCausalLM.from_pretrained(folder).to(device)
        return cls(path, folder, config, model, tuple(notices), tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of its configuration and parameters."""
        return fingerprints(self.model)["model"]

    @cached_property
    def alignment(self) -> int:
        """Tokens of a unit: chunks begin at multiples of it, and so do documents."""
        mixers = [block.seq_modeling_block for block in self.model.carry_layers]
        return math.lcm(*(type(m).alignment(m.config, m.options) for m in mixers))

    @property
    def trained_tokens(self) -> int | None:
        """Tokens of a sequence in training; None if that is not known."""
        return None if self.config is None else self.config.data.sequence_length

    def tokenizer(self) -> Tokenizer:
        """Find its tokenizer.

        Raises:
            DataError: it cannot be had, or its ids are not the model's.
        """
        found = model_tokenizer(self.folder, self.tokenizer_spec)
        if found.vocab_size > self.model.config.vocab_size:
            raise DataError(
                f"the tokenizer {found.name} has {found.vocab_size:,} ids, and the vocabulary of the model "
                f"{self.folder} is {self.model.config.vocab_size:,}. Name the model's own with --tokenizer."
            )
        return found

    def tokenizer_digest(self) -> str | None:
        """Digest of its tokenizer, if that is known."""
        try:
            return self.tokenizer().digest
        except DataError:
            return None

    def chunk_tokens(self, length_tokens: int, ranks: int, asked: int | None) -> int:
        """How long chunks are: as asked for; else as in the run, or shorter so that every rank has one.

        Raises:
            ConfigError: chunks of the asked length cannot be, or ranks are left without one.
        """
        unit = self.alignment
        if asked is not None and asked % unit:
            raise ConfigError(
                f"--chunk {asked} is not a multiple of {unit}, at which the model's layers can be cut. "
                f"The nearest that is: --chunk {max(1, round(asked / unit)) * unit}"
            )
        run = _DEFAULT_CHUNK if self.config is None else self.config.parallel.chunk_length
        share = -(-length_tokens // (ranks * unit)) * unit
        chunk = asked or min(max(1, run // unit) * unit, share)
        if -(-length_tokens // chunk) < ranks:
            raise ConfigError(
                f"length {length_tokens:,} in chunks of {chunk:,} are {-(-length_tokens // chunk)} chunks, "
                f"fewer than the {ranks} ranks. Give a smaller --chunk (a multiple of {unit}), a longer "
                "length, or start fewer processes."
            )
        return chunk

    def describe(self) -> dict[str, Any]:
        """What eval.json says of it."""
        return {
            "path": str(self.path),
            "weights": str(self.folder),
            "fingerprint": self.fingerprint,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trained_tokens": self.trained_tokens,
        }


def _run_config(path: Path) -> Config | None:
    """The configuration of the run that a folder is, or lies in."""
    path = path.absolute()  # which also gives "." a name
    places = [path]
    if path.name == "final":
        places.append(path.parent)
    if path.parent.name == "checkpoints":
        places.append(path.parent.parent)
    found = next((p / "config.yaml" for p in places if (p / "config.yaml").is_file()), None)
    return None if found is None else load_config(found)
