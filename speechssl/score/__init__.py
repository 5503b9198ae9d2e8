"""Word error rate, probes, benchmarks, reports."""
