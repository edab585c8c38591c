"""What a command has loaded: model, tokenizer, and a state to continue from; and how the state is saved."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError, cannot_write
from tttscale.generate import state_file
from tttscale.model import TTTForCausalLM
from tttscale.model.decode_state import DecodeState
from tttscale.observe.guard import warn
from tttscale.reading import reason
from tttscale.train.model_source import model_folder, model_tokenizer

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16)}


@dataclass
class Loaded:
    """A model with its tokenizer."""

    folder: Path
    """Where the model lies."""
    model: TTTForCausalLM
    tokenizer: Tokenizer
    owner: dict[str, str]
    """Whose a state is, as `fingerprints` says; empty if no one needs it."""

    @classmethod
    def load(
        cls,
        path: Path,
        tokenizer: str | None,
        device: torch.device,
        dtype: str,
        *,
        is_told_apart: bool,
    ) -> "Loaded":
        """Load from a run's folder or a model's.

        Args:
            path: of either.
            tokenizer: bytes, or a tokenizer.json; None: the model's own.
            device: where the model computes.
            dtype: of the parameters; auto: as they are stored.
            is_told_apart: read all parameters for the fingerprints.

        Raises:
            CheckpointError: weights are missing or damaged.
            DataError: there is no tokenizer.
        """
        folder, notices = model_folder(path)
        for notice in notices:
            warn(notice)
        codec = model_tokenizer(folder, tokenizer)
        wanted: torch.dtype | Literal["auto"] = "auto" if dtype == "auto" else _DTYPES[dtype]
        model = TTTForCausalLM.from_pretrained(folder, device=device, dtype=wanted)
        owner = state_file.fingerprints(model, codec) if is_told_apart else {}
        return cls(folder, model, codec, owner)

    def state(self, path: Path) -> DecodeState:
        """Read a state of this model and tokenizer, of one row.

        Raises:
            CheckpointError: it is another model's, or damaged.
            ConfigError: it has several rows.
        """
        found = state_file.load_state(path, self.model, self.owner)
        if len(found.positions) != 1:
            raise ConfigError(
                f"--load-state {path}: it has {len(found.positions)} rows, and this continues one. Load it "
                "from Python, and save the row: state.rows([0])"
            )
        return found

    def announce(self, state: DecodeState | None) -> None:
        """Say on stderr what is used."""
        parameter = self.model.lm_head.weight
        where = [] if parameter.device.type == "cpu" else [str(parameter.device)]
        if parameter.dtype != torch.float32:
            where.append(str(parameter.dtype).removeprefix("torch."))
        how = f" ({', '.join(where)})" if where else ""
        known = f", after {state.positions[0]:,} tokens" if state else ""
        print(f"model {self.folder}{how}, tokenizer {self.tokenizer.name}{known}", file=sys.stderr)

    def save(self, path: Path, state: DecodeState) -> None:
        """Write a state, and say so.

        Raises:
            ConfigError: it cannot be written; a DiskError if the disk is full or fails.
        """
        try:
            state_file.save_state(path, state, self.owner)
        except OSError as error:
            said = f"--save-state {path}: {reason(error)}. Name a file where there is room."
            raise cannot_write(error, said) from None
        print(
            f"state after {state.positions[0]:,} tokens: {path} ({state.nbytes:,} bytes)",
            file=sys.stderr,
        )
