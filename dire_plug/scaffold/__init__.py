"""Packages for a newcomer to fill: a regularizer, or a method with its patch. Read `package.py` first."""
