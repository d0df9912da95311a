"""The benchmarks' official metrics, each checked against results of the official evaluator."""
