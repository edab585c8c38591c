"""The training loop, the DeepSpeed engine, schedules and the final weights."""
