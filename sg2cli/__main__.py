"""`python -m sg2cli` is `sg2`."""

import os


def main() -> None:
    """The entry point `sg2`: an interruption while it is being loaded is one as well."""
    try:
        from sg2cli import devices
        from sg2cli.cli.main import main as run

        devices.limit_thread_pools(os.environ)
        run()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
