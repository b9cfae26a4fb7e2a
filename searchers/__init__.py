"""Algorithms of differentiable architecture search; imports nothing of the benchmark."""
