"""Where Fleet answers otherwise than the recorded kube-apiserver, and why."""

DIFFERENT: dict[str, tuple[int, str]] = {}
WORDS: dict[str, str] = {}
LISTED = {*DIFFERENT, *WORDS}
