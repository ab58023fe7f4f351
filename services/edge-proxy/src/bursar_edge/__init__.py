"""The edge: takes Claude Code's requests, asks for admission, forwards bytes, records what they cost."""
