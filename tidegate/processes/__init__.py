"""The node's processes beside the agent: started, adopted, replaced, ended."""
