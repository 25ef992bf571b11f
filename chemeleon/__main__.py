"""`python -m chemeleon`, as `accelerate launch -m chemeleon` runs it."""

from chemeleon.cli.app import main

if __name__ == "__main__":
    main()
