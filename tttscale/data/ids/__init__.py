"""Files of ready token ids: arrays of NumPy, the .bin and .idx of Megatron, nanosets, and bare numbers."""
