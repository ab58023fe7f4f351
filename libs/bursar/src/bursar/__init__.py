"""The `bursar` command: one-machine mode, setting up Claude Code, and the simulator."""
