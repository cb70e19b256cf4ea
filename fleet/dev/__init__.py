"""Running Fleet on one machine for evaluation and tests: embedded services and the supervisor."""
