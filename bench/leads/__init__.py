"""The prototypes that the kernels were measured against first, as they were written: references of the benches."""
