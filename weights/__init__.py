"""The bundled networks, installed as `sg2cli.weights`: data only, see README.md."""
