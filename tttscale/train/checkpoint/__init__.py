"""Saving a run and going on with it: on any number of ranks, at any ZeRO stage, without a pickle.

Start with `manifest` (what is in a checkpoint), then `folder` (how one appears and goes), `moments`
(AdamW's, by ranges of elements) and `checkpoints` (the same on all ranks).
"""
