"""PostgreSQL's migrations."""
