"""What users touch: the app and its decorators, the client, the worker, the command line."""
