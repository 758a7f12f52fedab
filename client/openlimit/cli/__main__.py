"""``openlimit``: see docs/cli.md."""

import os
import sys


def main() -> None:
    """Exits as docs/cli.md says."""
    # gRPC would write lines of its own beside ours, such as one for each failed handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:  # here, because the client alone installs this command without its packages
        from openlimit.cli.commands import app
    except ImportError as error:
        sentence = f"openlimit needs packages that are missing here ({error})"
        print(f'{sentence}: pip install "openlimitHW[cli]"', file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
