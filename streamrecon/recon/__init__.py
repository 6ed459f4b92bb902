"""The maths: counts to line integrals, filters, weights of angles, accumulators, the center."""
