"""node.yaml as a frozen value, section by section."""
