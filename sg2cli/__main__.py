"""`python -m sg2cli` is `sg2`."""

from sg2cli.cli.main import main

if __name__ == "__main__":
    main()
