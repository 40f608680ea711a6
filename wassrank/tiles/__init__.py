"""CPU kernels written as tiles of torch operators: for a loss whose time goes into matrix products and decompositions,
which are BLAS and LAPACK from any language, while what is elementwise passes over tiles that stay in cache."""
