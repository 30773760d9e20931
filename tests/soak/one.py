"""`python -m tests.soak.one PART SECONDS SEED`: one part of the soak, its counts as a line of JSON."""

from __future__ import annotations

import json
import sys

from tests.soak.parts import PARTS


def main() -> None:
    part, seconds, seed = sys.argv[1:]
    print(json.dumps(PARTS[part](float(seconds), int(seed))))


if __name__ == "__main__":
    main()
