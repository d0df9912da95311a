"""Pictures with one class each, in the files that their authors publish: one module a format."""
