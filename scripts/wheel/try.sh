#!/usr/bin/env bash
# Try the wheel in dist/ as a user has it: in an environment for each TORCH, away from the source tree and, where the
# system lets a process give up its network, without any. The environments are kept in build/try-wheel.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
here=$PWD
wheel=$(ls "$here"/dist/vflow-*-py3-none-manylinux_*_"$(uname -m)".whl)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp scripts/wheel/program.py "$place"
alone=()
if unshare --user --map-root-user --net true 2> /dev/null; then alone=(unshare --user --map-root-user --net); fi
for torch in "${@:-torch>=2.11,<2.14}"; do
    env=$here/build/try-wheel/$(tr -c 'a-z0-9\n' - <<< "$torch")
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet "$torch" 'mypy>=1.13'
    "$env/bin/python" -m pip install --quiet --force-reinstall --no-deps "$wheel"
    "$env/bin/python" -m pip install --quiet "$wheel"
    (
        cd "$place"
        unset PYTHONPATH
        "${alone[@]}" "$env/bin/python" -I program.py
        "${alone[@]}" "$env/bin/vflow" info | tee info.txt
        grep -q "mixlogistic: .*cpu" info.txt
        "${alone[@]}" "$env/bin/python" -I -m mypy --strict --cache-dir "$place/mypy" program.py
        if "$env/bin/vflow" train --help > /dev/null 2> said.txt; then exit 1; fi
        cat said.txt
        grep -qx "vflow: error: vflow train needs tyro, which is not installed: pip install 'vflow\[cli\]'" said.txt
    )
done
