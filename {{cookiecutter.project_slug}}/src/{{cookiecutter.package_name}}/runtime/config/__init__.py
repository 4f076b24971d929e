"""Configuration: the options, where their values come from, and what the service is."""
