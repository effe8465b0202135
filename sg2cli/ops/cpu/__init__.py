"""The operations on a CPU in float32, compiled by LLVM when they are first used: see README.md.

Only `sg2cli.ops` may import from here. Everything but `runtime`, `winograd` and `weights` needs
llvmlite.
"""
