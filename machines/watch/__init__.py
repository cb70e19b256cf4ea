"""The watcher: streams the nodes of clusters into PostgreSQL. It looks and writes down; it touches no cluster and no host."""
