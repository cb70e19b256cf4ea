"""Fleet: a control plane that keeps Kubernetes clusters and their machines at their declared state."""

__version__ = "0.1.0"
