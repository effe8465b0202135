"""One file, one subcommand."""
