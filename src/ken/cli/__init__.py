"""The command line."""


def main() -> None:
    """Entry point of `ken`."""
    from ken.cli.app import run

    run()
