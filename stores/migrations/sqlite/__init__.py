"""SQLite's migrations."""
