"""The benchmarks' own annotation files: one reader a data set, each giving the neutral examples of a split."""
