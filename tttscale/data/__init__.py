"""Token stores on Zarr: build them, read them, and cut them into windows. No torch here."""

from tttscale.data.builder.store_builder import build_store
from tttscale.data.progress import Progress
from tttscale.data.store.manifest import SplitInfo, StoreInfo, TokenizerInfo, render_info
from tttscale.data.store.token_store import Split, TokenStore
from tttscale.data.tokenizers.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from tttscale.data.windows.blend import Blend
from tttscale.data.windows.order import WindowOrder
from tttscale.data.windows.padded_stream import ArraySplit, TokenSplit
from tttscale.data.windows.window import ChunkTokens, Sequence, Windows

__all__ = [
    "ArraySplit",
    "Blend",
    "ByteTokenizer",
    "ChunkTokens",
    "Progress",
    "Sequence",
    "Split",
    "SplitInfo",
    "StoreInfo",
    "TokenSplit",
    "TokenStore",
    "Tokenizer",
    "TokenizerInfo",
    "WindowOrder",
    "Windows",
    "build_store",
    "load_tokenizer",
    "render_info",
]
