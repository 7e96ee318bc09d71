"""What to run: each file has `get_config`, which returns a locked ConfigDict; nothing is computed here."""
