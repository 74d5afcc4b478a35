#!/bin/bash
# Fails, saying so, when PATH does not exist in this tree: not-built.sh PATH WHAT
set -euo pipefail
if [[ ! -e $1 ]]; then
	echo "$2 is not in this tree yet (no $1): nothing was run" >&2
	exit 2
fi
