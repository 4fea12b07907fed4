"""`kafkalite`, which is `python -m kafkalite`: the command line, or how to install it.

The library does without click and rich; they come with the extra `cli`.
"""

import sys

CLI_PACKAGES = {"click", "rich_click", "rich"}


def main() -> None:
    """Run the command line. Exits 2 if the extra `cli` is not installed, 130 on Ctrl-C."""
    try:
        from kafkalite.cli import cli  # noqa: PLC0415  (it needs the extra)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in CLI_PACKAGES:
            raise
        sys.stderr.write(f"kafkalite: the command line needs {package}; install it with pip install 'kafkalite[cli]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    cli(prog_name="kafkalite")


if __name__ == "__main__":
    main()
