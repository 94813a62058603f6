"""The native route: model.packed, the weights in the layout of guardpass-kernels."""
