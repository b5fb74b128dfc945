"""`python -m ken` is `ken`."""

from ken.cli import main

if __name__ == "__main__":
    main()
