"""Mixed operations of a GPU as four Triton kernels: normalisation, ReLU, weights and sum (`bench.fused.mixed`)."""
