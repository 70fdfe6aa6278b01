"""The engine onnx: embeddings, classification and cross-encoders by ONNX Runtime."""
