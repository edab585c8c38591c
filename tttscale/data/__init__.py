"""Token stores on Zarr: build them, read them, and cut them into windows. No torch here."""

from tttscale.data.builder.options import BuildOptions, ImportOptions
from tttscale.data.builder.store_builder import build_store, import_ids
from tttscale.data.progress import Progress
from tttscale.data.store.array_split import ArraySplit
from tttscale.data.store.describe import render_info
from tttscale.data.store.manifest import SplitInfo, StoreInfo, TokenizerInfo
from tttscale.data.store.open import open_store
from tttscale.data.store.protocols import Split, Store, TokenSplit
from tttscale.data.tokenizers.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from tttscale.data.windows.blend import Blend
from tttscale.data.windows.order import WindowOrder
from tttscale.data.windows.window import TokenChunk, Window, Windows

__all__ = [
    "ArraySplit",
    "Blend",
    "BuildOptions",
    "ByteTokenizer",
    "ImportOptions",
    "Progress",
    "Split",
    "SplitInfo",
    "Store",
    "StoreInfo",
    "TokenChunk",
    "TokenSplit",
    "Tokenizer",
    "TokenizerInfo",
    "Window",
    "WindowOrder",
    "Windows",
    "build_store",
    "import_ids",
    "load_tokenizer",
    "open_store",
    "render_info",
]
