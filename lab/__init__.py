"""Real hosts for tests and for trying Fleet on one machine: Debian, rpm, and a virtual machine with its own kernel."""

from lab.host import Host
from lab.lab import Lab
from lab.requirements import LabError

__all__ = ["Host", "Lab", "LabError"]
