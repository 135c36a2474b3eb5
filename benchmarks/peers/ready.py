"""The line with which a peer says that it accepts connections."""

from __future__ import annotations

import argparse
import json


def announce(port: int) -> None:
    """Write the line, with as many devices as ``--devices`` says. Their tokens are their ids."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--store", help="for other peers: this one stores nothing")
    ids = [(f"d{n}", f"d{n}") for n in range(parser.parse_args().devices)]
    print(json.dumps({"port": port, "key": "any", "devices": ids}), flush=True)
