"""The ONNX graph of a length-adaptive encoder."""
