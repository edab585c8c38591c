"""Token stores on Zarr: build them, read them, and cut them into windows. No torch here."""

from tttscale.data.blend import Blend
from tttscale.data.build import build_store
from tttscale.data.documents import ArraySplit, TokenSplit
from tttscale.data.manifest import SplitInfo, StoreInfo, TokenizerInfo, render_info
from tttscale.data.order import WindowOrder
from tttscale.data.progress import Progress
from tttscale.data.store import Split, TokenStore
from tttscale.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from tttscale.data.windows import ChunkTokens, Sequence, Windows

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
