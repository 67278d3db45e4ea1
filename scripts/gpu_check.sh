#!/usr/bin/env bash
# All that only a GPU can say, in under 8 minutes: see gpu_check.py beside this.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
