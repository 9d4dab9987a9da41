"""The methods: a module with adapter and flags for each, and the bases of families of them."""
