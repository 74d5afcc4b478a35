"""The agent's end of the DNS proxy: what it judges by, what it tells the kernel, what it reports."""
