"""The offline HTML report and the model card."""
