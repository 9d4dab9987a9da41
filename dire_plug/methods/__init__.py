"""The eight methods: an adapter and its flags in a module each, and what families of methods share."""
