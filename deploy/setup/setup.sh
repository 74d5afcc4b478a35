#!/bin/bash
# Installs what Tidegate and its tests need on Debian 12 and leaves .venv/bin/tidegate. Safe to run again at any time:
# each step looks first, and a step that was cut short is done again. `setup.sh demo` leaves out what only tests and checks use.
set -euo pipefail
cd "$(dirname "$0")/../.."

# python3 on PATH may be another interpreter without Debian's modules; bcc exists only as a Debian package.
PYTHON=/usr/bin/python3
VENV=.venv

# package: what for
PACKAGES=(
	python3-bpfcc    # compiles and loads the BPF programs
	python3-venv     # the venv module
	gcc              # a test compiles the ABI header and compares it with its Python mirror
	linux-libc-dev   # UAPI headers that the BPF programs include
	libc6-dev        # bits/ headers that those pass on to
	iproute2         # ip: namespaces, veths, rules
	clang-format     # make check
	rustc            # builds the module that Envoy loads
	cargo
	rustfmt          # make check
	rust-clippy      # make check
	nginx-light      # a server that is not ours, in the demo and the benchmark
	wrk              # load over HTTP/1.1
	nghttp2-client   # load over HTTP/2
	nftables         # redirects of the benchmark's arms that are not Tidegate
	curl             # tests ask Envoy's admin socket
	knot             # a DNS server that is not ours
	bind9-dnsutils   # dig, a DNS client that is not ours
	dnsperf          # load over DNS
	iputils-ping     # ICMP verdicts
	openssl          # certificates of the TLS scenarios
	bpftool          # reading maps by hand; tests and the benchmark ask it what is attached
	procps           # sysctl
	util-linux       # nsenter, unshare
	ca-certificates
)
# Only for tests; chromium alone is some 300 MB.
TEST_PACKAGES=(
	chromium          # the page is tested in a real browser
	fonts-dejavu-core # letters to draw it with
	prometheus        # promtool: checks metrics, alert rules and their tests; the server is not started
)
[[ ${1-} == demo ]] || PACKAGES+=("${TEST_PACKAGES[@]}")

as_root() {
	if [[ $EUID -eq 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "setup: '$*' needs root: run make setup as root, or install sudo" >&2
		exit 1
	fi
}

install_packages() {
	local missing=() package
	for package in "${PACKAGES[@]}"; do
		if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) != installed ]]; then
			missing+=("$package")
		fi
	done
	if [[ ${#missing[@]} -eq 0 ]]; then
		return
	fi
	echo "setup: installing ${missing[*]}"
	local log
	log=$(mktemp)
	# A dpkg run that was cut short leaves packages half configured; this is a no-op otherwise.
	as_root dpkg --configure -a >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
	# The lists may be absent (fresh image) or older than the mirror: refresh them once, only when something is missing.
	as_root apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
	# nginx-light and prometheus would start servers on this machine; policy-rc.d (Debian policy 9.3.3.1) forbids it.
	local forbid=/usr/sbin/policy-rc.d made=false status=0
	if [[ ! -e $forbid ]]; then
		made=true
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$forbid" >/dev/null
		as_root chmod +x "$forbid"
	fi
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >"$log" 2>&1 || status=$?
	if $made; then
		as_root rm -f "$forbid"
	fi
	if [[ $status -ne 0 ]]; then
		cat "$log" >&2
		exit 1
	fi
	rm -f "$log"
}

make_venv() {
	# The stamp is the last thing a finished installation writes: without it nothing in the venv is trusted.
	local stamp=$VENV/.tidegate-lock want
	want=$("$PYTHON" --version && sha256sum requirements/dev.txt pyproject.toml)
	if [[ ! -x $VENV/bin/python ]] || ! "$VENV/bin/python" -c 'import pip' 2>/dev/null ||
		! grep -q '^include-system-site-packages = true' $VENV/pyvenv.cfg; then
		echo "setup: making $VENV"
		rm -rf "$VENV"
		"$PYTHON" -m venv --system-site-packages "$VENV"
	fi
	if [[ -f $stamp && $(<"$stamp") == "$want" && -x $VENV/bin/tidegate ]]; then
		return
	fi
	rm -f "$stamp"
	echo "setup: installing the locked Python packages"
	"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements/dev.txt
	"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	# Debian's bcc and Envoy's binary are the two parts that pip cannot vouch for.
	"$VENV/bin/python" -c 'import bcc, envoy' || { echo "setup: the venv is incomplete: remove $VENV and run again" >&2; exit 1; }
	printf '%s\n' "$want" >"$stamp"
}

# Two runs at once would pull the venv from under each other.
exec 9>"/tmp/tidegate-setup.$(id -u).lock"
flock 9
install_packages
make_venv
deploy/setup/native.sh
deploy/setup/cni.sh
