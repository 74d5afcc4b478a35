//go:build tools

// Package servers names the programs that the tests start, so that go.mod keeps what they need.
package servers

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
