"""`domus`: the command of the manager.

Exit codes: 0 done, or nothing to change; 1 refused or failed; 2 `plan` found something to change, or `drift` found drift; 3 the
manager does not answer or does not let us in; 64 wrong usage; 130 interrupted (a job goes on: `domus job tail`).
"""

from __future__ import annotations

import json
import sys

import click
from domus_core.errors import DomusError, Unauthorized, Unreachable

FAILED, AWAY, USAGE, INTERRUPTED = 1, 3, 64, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        from .commands import domus  # here, where an interruption is caught

        code = int(domus.main(args=words, prog_name="domus", standalone_mode=False) or 0)
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: the output can not be written: {error.strerror}", file=sys.stderr)
        return FAILED
    except DomusError as error:
        as_json = "json" in words or "-ojson" in words
        print(json.dumps(error.as_dict()) if as_json else f"error: {error}", file=sys.stderr)
        return AWAY if isinstance(error, (Unreachable, Unauthorized)) else FAILED


if __name__ == "__main__":
    sys.exit(main())
