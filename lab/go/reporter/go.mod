module fleet.dev/lab/reporter

go 1.26.0
