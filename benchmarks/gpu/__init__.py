"""`python -m benchmarks.gpu`: builds, checks, measures and explains on an NVIDIA GPU, in stages."""
