"""The built-in data set: rendered scenes and questions about them, in the published VQA formats."""
