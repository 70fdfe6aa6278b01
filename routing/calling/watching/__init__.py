"""Watches answers pass: what they contain, whether they keep their form, how they end, and the usage they tell."""
