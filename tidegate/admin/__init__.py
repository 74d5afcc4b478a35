"""What people and scripts ask the agent: the API, its client, the page and its guard."""
