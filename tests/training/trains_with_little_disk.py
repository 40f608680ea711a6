"""`training.train` that may write files of so many bytes only. For test_training_bad_input.py."""

from __future__ import annotations

import resource
import sys

from training import train

if __name__ == "__main__":
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(train.main(sys.argv[2:]))
