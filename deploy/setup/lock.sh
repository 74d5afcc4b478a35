#!/bin/bash
# Resolves requirements/*.in into hashed requirements/*.txt with pip-tools from a throwaway venv.
# The output names no index, so that any mirror serves it.
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
/usr/bin/python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check pip-tools
for name in runtime dev; do
	# A local wheel directory (PIP_FIND_LINKS) would put hashes of private builds into the lock.
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND='make lock' "$scratch/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe \
		--strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
		--output-file "requirements/$name.txt" "requirements/$name.in"
done
