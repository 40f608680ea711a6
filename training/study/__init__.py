"""Which loss, with which options? Losses × seeds on one collection, by cross-validation over its queries.

    python -m training.study --data DIR --split all --output DIR          # a head on frozen embeddings: a second a run
    python -m training.study --encoder DIR --output DIR2                  # the encoder itself, as that study chose

The queries of a split are dealt into folds. Each fold in turn is measured; what a loss may choose (temperature, target,
factors: `contestants.yaml`) is chosen on the other folds alone, by cross-validation among them, and so is how long to
train. With what was chosen the loss is then trained on all of those folds, once a seed, and each query's measures are
the mean over seeds. So every query is measured by models that have never seen it, nor chosen by it, and losses are
compared on the same queries, with the same batches in the same order.
"""
