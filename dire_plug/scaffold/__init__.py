"""Write packages to fill in: a regularizer, or a method with its patch. Read `package.py` first."""
