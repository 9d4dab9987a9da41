"""Run the command line: `python -m dire_plug COMMAND`."""

from dire_plug.cli import main

if __name__ == "__main__":
    main()
