"""Engine ``onnx-painter``: emoji-like pictures of single things, by a small model that comes with Roundhouse."""
