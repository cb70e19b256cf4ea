module fleet.dev/lab/fetch

go 1.26.0
