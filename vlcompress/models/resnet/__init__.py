"""ResNet: image classification, and the dense heads that its tickets are transferred to."""
