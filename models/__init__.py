"""The networks: single device, plain tensors. Nothing here names a rank or a cache."""
