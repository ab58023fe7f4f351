"""``python -m bursar_common.ready http://127.0.0.1:8081/readyz``: a container's health check.

Ends with 0 if the address answers 200, else with 1 and one line that says why. Without a space in its arguments: some
container engines split them.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

ANSWER_S = 4.0
"""How long an answer may take; an engine's own limit for a check is 5 s."""
MAX_WHY_BYTES = 2_000
"""Of an unready service's answer, which says why."""


def main(arguments: list[str]) -> int:
    """Exit code for these arguments: one address."""
    if len(arguments) != 1 or not arguments[0].startswith(("http://", "https://")):
        sys.stderr.write("usage: python -m bursar_common.ready http://host:port/readyz\n")
        return 2
    try:
        with urllib.request.urlopen(arguments[0], timeout=ANSWER_S) as answer:  # noqa: S310  # http(s) alone, see above
            return 0 if answer.status == 200 else 1
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"status {error.code}: {error.read(MAX_WHY_BYTES).decode(errors='replace')}\n")
    except OSError as error:
        sys.stderr.write(f"no answer: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
