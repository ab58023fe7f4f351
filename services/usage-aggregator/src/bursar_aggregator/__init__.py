"""Part of Bursar."""
