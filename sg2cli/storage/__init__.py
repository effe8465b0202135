"""File storage: reading untrusted files with limits, atomic writes, downloads."""
