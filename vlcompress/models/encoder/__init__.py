"""Any transformer encoder of transformers: text, pictures, or both."""
