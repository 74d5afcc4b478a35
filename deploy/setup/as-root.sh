#!/bin/bash
# Runs a command as root, through sudo if that is needed.
set -euo pipefail
if [[ $EUID -eq 0 ]]; then
	exec "$@"
elif command -v sudo >/dev/null; then
	exec sudo --preserve-env=PATH,CI,TIDEGATE_CI "$@"
fi
echo "'$*' needs root: run as root, or install sudo" >&2
exit 1
