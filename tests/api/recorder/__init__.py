"""Records what a real kube-apiserver answers, so that tests can compare Fleet's answers with it (see README.md)."""
