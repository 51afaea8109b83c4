"""Delivery to people and systems: webhooks and e-mail. Only `project` imports this room."""
