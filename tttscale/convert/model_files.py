"""A model's folder: weights in files by size, configuration, tokenizer, card; whole or not at all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tttscale.convert.source import Source, dtype_name, widest
from tttscale.convert.tokenizer_files import generation_file, json_bytes, tokenizer_files
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import cannot_write
from tttscale.files import new_folder, replaced
from tttscale.model.architecture import TTTConfig
from tttscale.model.auto_map import AUTO_MAP, CODE, CODE_NAME
from tttscale.model.pretrained import config_fields, read_config
from tttscale.model.weights import CONFIG, INDEX, WEIGHTS, open_weights
from tttscale.reading import reason
from tttscale.tensors import Spec, stream_tensors

CARD = "README.md"
SHARD_BYTES = 5_000_000_000
"""Largest file of weights by default, as in the transformers that the official code needs."""
Progress = Callable[[int, int], None]
"""Told the bytes that are written and those of all."""


@dataclass(frozen=True)
class ModelFiles:
    """What a model's folder is made of."""

    config: TTTConfig
    source: Source
    """All its tensors, in the order in which they are written."""
    tokenizer: Tokenizer | None
    card: str
    """Markdown of its model card."""
    dtype: torch.dtype | None = None
    """Dtype of the weights in the folder; None: each as it is in the source."""
    shard_bytes: int = SHARD_BYTES
    """Largest file of weights; a tensor that is larger has a file of its own."""

    @property
    def specs(self) -> dict[str, Spec]:
        """What each tensor is in the folder."""
        return {
            key: Spec(self.dtype or stored.dtype, stored.shape)
            for key, stored in self.source.tensors.items()
        }

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(spec.size_bytes for spec in self.specs.values())

    def small_files(self) -> dict[str, bytes]:
        """All files beside the weights, by name."""
        dtype = widest({spec.dtype for spec in self.specs.values()})
        return {
            CONFIG: json_bytes(
                config_fields(self.config, dtype_name(dtype)) | {"auto_map": AUTO_MAP}
            ),
            CODE_NAME: CODE.encode(),
            **generation_file(self.tokenizer),
            **({} if self.tokenizer is None else tokenizer_files(self.tokenizer)),
            CARD: self.card.encode(),
        }


@contextmanager
def written(out: Path, files: ModelFiles, progress: Progress) -> Iterator[Path]:
    """Write a model's folder; it takes its name when the context ends without an error.

    Args:
        out: which does not exist.
        files: what to write.
        progress: called after each tensor.

    Yields:
        The folder under its name until then, complete.

    Raises:
        CheckpointError: a tensor is damaged or not finite; there is no folder.
        ConfigError: there is something of this name, or the file system refused.
    """
    try:
        with new_folder(out) as partial:
            _write_weights(partial, files, progress)
            files.source.check_unchanged()
            for name, content in files.small_files().items():
                with replaced(partial / name) as file:
                    file.write(content)
            _check(partial, files)
            yield partial
    except FileExistsError as error:
        raise cannot_write(
            error, f"{error.filename} exists already. Name a folder that does not exist"
        ) from None
    except OSError as error:
        raise cannot_write(
            error, f"{out}: {reason(error)}. Check space and permissions, or name another folder"
        ) from None


def shards(specs: Mapping[str, Spec], limit_bytes: int) -> list[list[str]]:
    """Share tensors out over files, in their order, none above the limit that holds more than one."""
    found: list[list[str]] = [[]]
    size = 0
    for key, spec in specs.items():
        if found[-1] and size + spec.size_bytes > limit_bytes:
            found.append([])
            size = 0
        found[-1].append(key)
        size += spec.size_bytes
    return found


def _write_weights(folder: Path, files: ModelFiles, progress: Progress) -> None:
    specs, total, done = files.specs, files.total_bytes, 0
    parts = shards(specs, files.shard_bytes)

    def read(key: str) -> Tensor:
        """Read a tensor, and tell how far it is."""
        nonlocal done
        tensor = files.source.read(key, specs[key].dtype)
        done += specs[key].size_bytes
        progress(done, total)
        return tensor

    places: dict[str, str] = {}
    for number, keys in enumerate(parts, 1):
        several = len(parts) > 1
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors" if several else WEIGHTS
        stream_tensors(folder / name, {key: specs[key] for key in keys}, read)
        places |= dict.fromkeys(keys, name)
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        with replaced(folder / INDEX) as file:
            file.write(json_bytes(index))


def _check(folder: Path, files: ModelFiles) -> None:
    """See that what was written is what shall be read."""
    assert read_config(folder, may_build=False) == files.config
    with open_weights(folder) as weights:
        assert {key: weights.shape(key) for key in weights} == {
            key: spec.shape for key, spec in files.specs.items()
        }
