"""The documentation: generators of its reference pages, and tests of what its pages say.

``python -m tests.docs`` writes the generated pages.
"""
