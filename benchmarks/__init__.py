"""What is timed, against whom: pytest-benchmark files (bench_*.py), results as JSON, tables made from the JSON."""
