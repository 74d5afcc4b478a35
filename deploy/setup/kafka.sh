#!/bin/bash
# Brings what the Kafka suite runs: a JRE, Maven, and Apache Kafka from Maven Central (tests/kafka/pom.xml) in build/kafka.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
command -v java >/dev/null || missing+=(default-jre-headless)
command -v mvn >/dev/null || missing+=(maven)
if [[ ${#missing[@]} -gt 0 ]]; then
	if [[ $EUID -ne 0 ]]; then
		echo "kafka: installing ${missing[*]} needs root" >&2
		exit 1
	fi
	echo "kafka: installing ${missing[*]}"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
want=$(sha256sum <tests/kafka/pom.xml)
stamp=build/kafka/.pom
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
	exit 0
fi
echo "kafka: fetching Apache Kafka"
rm -rf build/kafka
mkdir -p build/kafka
mvn --quiet --batch-mode --file tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/build/kafka"
printf '%s\n' "$want" >"$stamp"
