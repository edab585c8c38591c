"""What a run will take, before it runs: FLOPs, memory, and the time of a step. No GPU, no other process."""
