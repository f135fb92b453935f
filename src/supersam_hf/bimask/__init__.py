"""OFB: importance and sparsity of every unit learned at once, as bi-masks on an ordinary vision transformer."""
