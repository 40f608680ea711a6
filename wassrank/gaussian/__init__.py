"""The batch-Gaussian distance without N × N matrices: passes over the scores, and small algebra between them.

`passes` says what a backend has to bring, `distance` puts a step together from it, `polar` is the algebra of the [Q, Q]
matrix."""
