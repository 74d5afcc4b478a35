"""DNS: a sans-IO reader of messages, name rules, the cache of answers, and the proxy that puts them to work."""
