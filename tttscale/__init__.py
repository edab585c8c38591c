"""tttscale: train Test-Time-Training language models split exactly along the sequence.

Importing this package loads neither torch nor deepspeed.
"""

__version__ = "0.1.0"
