"""`python -m contracts` writes the generated documents beside the code; `--check` says which are stale."""

import argparse
import sys

from contracts.documents import stale, write


def main(arguments: list[str] | None = None) -> int:
    """Write the stale files, or name them and return 1."""
    parser = argparse.ArgumentParser(prog="python -m contracts", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    check = parser.parse_args(arguments).check
    changed = stale() if check else write()
    for name in changed:
        print(f"{'stale' if check else 'written'}: contracts/{name}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
