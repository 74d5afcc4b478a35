"""What a cluster is given: CRDs, manifests and the Helm chart, all generated from here (``make manifests``)."""
