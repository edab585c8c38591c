"""Save a run and resume it: on any number of ranks, at any ZeRO stage, without a pickle.

Read `manifest` (what is in a checkpoint), then `folder` (how one appears and is removed),
`optimizer_state` (AdamW's moments, by ranges of elements) and `manager` (the same on all ranks).
`compatibility` says which configurations may resume a checkpoint, `disk_room` whether those to come fit.
"""
