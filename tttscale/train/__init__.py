"""Training: a run's parts are built, announced and run; DeepSpeed's step, schedules, records, checkpoints.

Read `main`, then `training_run` (the order of set-up and the loop), `build` (from a configuration to the
parts), `trainer` (one step, one evaluation) and `engine` (one optimizer step by DeepSpeed).
"""
