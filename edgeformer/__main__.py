"""``python -m edgeformer``: the command line where the script is not on the PATH."""

from edgeformer.cli.main import main

if __name__ == "__main__":
    main()
