"""Condensed sets from outside: opened (`opened`), evaluated, measured, and ranked by DD-Ranking's scores."""
