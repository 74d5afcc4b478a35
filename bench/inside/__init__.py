"""Programs that run inside the namespaces. They import nothing but Python's own library, so that they start at once."""
