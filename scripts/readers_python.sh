#!/usr/bin/env bash
# Prints a Python with the packages of readers_requirements.txt: the one named in
# SCRL_READERS_PYTHON, or that of a virtual environment in .venv/, which is made where it is missing
# or the list has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -n "${SCRL_READERS_PYTHON:-}" ]; then
    echo "$SCRL_READERS_PYTHON"
    exit
fi
folder=.venv/readers
list=scripts/readers_requirements.txt
if ! cmp -s "$list" "$folder/installed.txt"; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$list" >&2
    cp "$list" "$folder/installed.txt"
fi
echo "$PWD/$folder/bin/python"
