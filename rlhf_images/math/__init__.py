"""The mathematics: tensors in, tensors out; no model, device or config in sight."""
