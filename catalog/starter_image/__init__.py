"""The weights of the starter that draws emoji-like pictures, ``doodle``; the engine ``onnx-painter`` reads them.

``reader.onnx``
    ``vector`` [n, 384] of all-MiniLM-L6-v2 (mean pooling, length 1) to the logits ``subjects`` [n, subjects] and
    ``colours`` [n, 1 + colours], the first one: no colour.
``painter.onnx``
    ``row`` [n] of its codes to ``picture`` [n, 96, 96, 4]: premultiplied RGBA, from 0 to 1.
``subjects.json``
    the subjects' names, and the rows of their codes by style.

``train`` makes them; ``LICENCES.md`` names the works that they learned from.
"""
