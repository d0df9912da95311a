"""The native CPU kernel of packed layers: C++, compiled on the user's machine, as a plug-in for ONNX Runtime."""
