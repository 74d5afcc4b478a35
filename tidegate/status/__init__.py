"""How the node is: what is realised, what is outstanding, what the machine lacks."""
