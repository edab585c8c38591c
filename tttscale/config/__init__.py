"""The configuration of a run: its schema, YAML loading, and checks. No torch here."""

from tttscale.config.checks import check_world
from tttscale.config.flat import flat_keys
from tttscale.config.load import dump_config, load_config
from tttscale.config.schema import Config

__all__ = ["Config", "check_world", "dump_config", "flat_keys", "load_config"]
