"""The adapters, each in its framework's own trainer."""
