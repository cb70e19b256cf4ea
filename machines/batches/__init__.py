"""One verb on many machines: a list that is frozen when it is asked for, a second person's word over a limit, and Operations as they fit."""
