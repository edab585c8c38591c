"""What a model folder holds so that transformers can load it without an import of tttscale in the program.

`config.json` names classes under `auto_map`; they are looked up in a file of the folder, if the user says
`trust_remote_code=True`. The file only imports tttscale, which has to be installed. No transformers here.
"""

CODE_NAME = "tttscale_auto.py"
"""Name of that file."""
AUTO_MAP = {
    "AutoConfig": "tttscale_auto.TTTConfig",
    "AutoModelForCausalLM": "tttscale_auto.TTTForCausalLM",
}
"""Value of `auto_map` in config.json."""
CODE = '''\
"""Lets transformers load this folder; needs tttscale (pip install 'tttscale[hf]')."""

from tttscale.hf import TTTConfig, TTTForCausalLM

__all__ = ["TTTConfig", "TTTForCausalLM"]
'''
"""Content of the file."""
