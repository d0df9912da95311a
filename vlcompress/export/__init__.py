"""ONNX export, verified before it is written."""
