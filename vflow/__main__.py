"""`python -m vflow`, also under torchrun."""

from __future__ import annotations

from vflow.cli import main

if __name__ == "__main__":
    main()
