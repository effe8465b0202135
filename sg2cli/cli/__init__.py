"""The command line: the only folder that knows Click, tqdm, stdout and exit codes."""
