"""Payload in, payload out: the port `Engine`, and ONNX Runtime behind it in worker processes."""
