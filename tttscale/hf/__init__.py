"""TTT models in Hugging Face transformers: importing this makes its Auto classes load them."""

from tttscale.hf.cache import TTTCache
from tttscale.hf.configuration import TTTConfig
from tttscale.hf.library import transformers
from tttscale.hf.modeling import TTTForCausalLM

__all__ = ["TTTCache", "TTTConfig", "TTTForCausalLM"]

transformers.AutoConfig.register(TTTConfig.model_type, TTTConfig, exist_ok=True)
transformers.AutoModelForCausalLM.register(TTTConfig, TTTForCausalLM, exist_ok=True)
transformers.AutoTokenizer.register(
    TTTConfig, fast_tokenizer_class=transformers.PreTrainedTokenizerFast, exist_ok=True
)
