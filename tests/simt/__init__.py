"""csrc/cuda on the CPU: see simt.h."""
