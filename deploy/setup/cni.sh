#!/bin/bash
# Builds the CNI plugin as a static binary (a node may have any libc, or none) and leaves it in deploy/cni/bin.
# Does nothing when it is there already.
set -euo pipefail
cd "$(dirname "$0")/../cni"

# Debian's own tool chain, whatever else is on PATH.
export PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc RUSTFLAGS='-C target-feature=+crt-static'
digest=$( (/usr/bin/rustc --version; find Cargo.toml Cargo.lock src -type f | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -c1-12)
if [[ -x bin/tidegate-cni && -f bin/.digest && $(<bin/.digest) == "$digest" ]]; then
	exit 0
fi
echo "setup: building the CNI plugin"
target=$(/usr/bin/rustc -vV | sed -n 's/^host: //p')
# With a target of its own, build scripts and plugins are not linked statically, which glibc does not allow.
/usr/bin/cargo build --quiet --release --offline --locked --target "$target"
mkdir -p bin
install -m 0755 "target/$target/release/tidegate-cni" bin/tidegate-cni
printf '%s\n' "$digest" >bin/.digest
