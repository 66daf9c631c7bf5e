"""The CUDA kernels' side of the table: records from arrays, and who runs their plans."""
