#!/bin/bash
# Builds the module that Envoy loads and leaves it in proxylib/native/lib under a name that changes with its sources:
# Envoy opens a path once per process, so a new build needs a new name. Does nothing when it is there already.
set -euo pipefail
cd "$(dirname "$0")/../../proxylib/native"

# Debian's own tool chain, whatever else is on PATH: what it builds, every Debian 12 runs.
export PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc
digest=$( (/usr/bin/rustc --version; find Cargo.toml Cargo.lock src -type f | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -c1-12)
library=lib/libtidegate-$digest.so
if [[ -e $library ]]; then
	exit 0
fi
echo "setup: building Envoy's module"
/usr/bin/cargo build --quiet --release --offline --locked
mkdir -p lib
install -m 0644 target/release/libtidegate_native.so "$library.new"
mv "$library.new" "$library"
# A running Envoy keeps the file it opened; only old builds go.
find lib -name 'libtidegate-*.so' ! -name "${library#lib/}" -delete
