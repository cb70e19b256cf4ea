"""A simulated Kubernetes API server: the real HTTP API over thousands of nodes that behave, and misbehaviour on order.

`python -m simulator.kube --nodes 20000 --port 0` starts one. In layers: `resources` (what there is), `packing` and `store` (versions,
history), `objects` (defaults and validation), `patches` and `owners` (ways of changing), `verbs` (what a request does), `selection` and
`streams` (lists and watches), `kubelets` and `budgets` (what happens by itself), `faults` (misbehaviour), `server` and `admin` (HTTP).
"""
