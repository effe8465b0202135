"""The bundled networks, data only: installed as `sg2cli.weights`. See README.md beside this file."""
