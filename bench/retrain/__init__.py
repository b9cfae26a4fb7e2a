"""Training one found cell on its own, by the protocol of the benchmark it belongs to."""
