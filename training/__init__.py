"""The reference trainer: fine-tunes a bi-encoder on graded relevance with wassrank's losses and measures it.

    python -m training.demo                        # the bundled sample, a few minutes on a CPU
    python -m training.train --data DIR --output DIR --loss grade_wasserstein
    python -m training.evaluate --data DIR --model DIR
    python -m training.generate.review FOLDER --out DIR
    python -m training.export DATA --to FORMAT --out DIR

See training/README.md. It uses wassrank's public face only.
"""
