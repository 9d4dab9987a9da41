"""The public API for packages of methods and regularizers; they import nothing else of dire-plug.

`dire_plug.api.method`: what an adapter is written with. It imports no torch.
`dire_plug.api.term`: what a regularizer is written with. It imports torch.

Both list their names in `__all__`. Importing this package imports neither.
"""
