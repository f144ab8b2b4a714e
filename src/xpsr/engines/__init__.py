"""Other engines than torch for a model's networks: a folder's networks exported, opened and called."""
