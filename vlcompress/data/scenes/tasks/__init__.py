"""The built-in data of the tasks beside VQA, one file for each."""
