#!/bin/bash
# Runs pytest on those of the given paths that exist, quietly; a selection without tests is an error, not a success.
set -euo pipefail
paths=() options=()
for argument in "$@"; do
	if [[ ${#options[@]} -gt 0 || $argument == -* ]]; then
		options+=("$argument")
	elif [[ -e $argument ]]; then
		paths+=("$argument")
	fi
done
if [[ ${#paths[@]} -eq 0 ]]; then
	echo "pytest-some: none of these exist: $*" >&2
	exit 1
fi
exec .venv/bin/python -m pytest -q --no-header "${paths[@]}" "${options[@]}"
