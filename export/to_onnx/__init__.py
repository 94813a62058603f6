"""The ONNX route: model.onnx and its weight file."""
