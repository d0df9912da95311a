"""The server: Open Inference Protocol v2 over HTTP, safe under load. `create_app` is all that other engines need."""
