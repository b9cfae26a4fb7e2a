"""What a GPU computes by Triton kernels of ours: mixed operations as one function, grouped convolutions."""
