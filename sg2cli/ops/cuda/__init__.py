"""The operations on CUDA, as Triton kernels: see README.md.

Only `sg2cli.ops` may import from here. Both modules need Triton.
"""
