"""Who may do what: roles (viewer, operator, approver, admin) within a scope (one cluster, or the whole fleet)."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.control.kinds import Kind

READ_VERBS = frozenset({"get", "list", "watch"})
EVERYWHERE = ""


@dataclass(frozen=True, slots=True)
class Actor:
    """A person, token or part of Fleet itself. `bindings`: (role, cluster name or "" for the fleet)."""

    name: str
    user_id: int | None = None
    bindings: tuple[tuple[str, str], ...] = ()
    address: str = ""
    is_system: bool = False

    def roles_in(self, cluster: str | None) -> frozenset[str]:
        """Roles that hold in that cluster; None = for what belongs to no cluster."""
        return frozenset(role for role, scope in self.bindings if scope == EVERYWHERE or (cluster and scope == cluster))

    @property
    def clusters(self) -> frozenset[str] | None:
        """Names of the clusters this actor sees; None = all."""
        if self.is_system or any(scope == EVERYWHERE for _, scope in self.bindings):
            return None
        return frozenset(scope for _, scope in self.bindings)

    def may(self, verb: str, kind: Kind, cluster: str | None, subresource: str = "") -> bool:
        """Whether the verb is allowed. `cluster` is None for kinds without one, "" for an object outside every cluster."""
        if self.is_system:
            return True
        if not self.bindings:
            return False
        if kind.cluster_field is None:
            return verb in READ_VERBS or (not kind.read_only and "admin" in self.roles_in(None))
        if verb in READ_VERBS and cluster is None:
            return True  # a list: filtered to what the actor may see
        roles = self.roles_in(cluster)
        if verb in READ_VERBS:
            return bool(roles)
        if kind.read_only:
            return False
        if subresource == "status":
            return "admin" in self.roles_in(None)
        if "admin" in roles:
            return True
        return kind.writers == "operator" and "operator" in roles and verb != "deletecollection"

    def may_somewhere(self, verb: str, kind: Kind, subresource: str = "") -> bool:
        """Whether there is any cluster (or none) where the verb is allowed."""
        scopes = {scope for _, scope in self.bindings} if kind.cluster_field else {None}
        return self.is_system or any(self.may(verb, kind, scope, subresource) for scope in scopes)

    def may_approve(self, cluster: str | None) -> bool:
        """Confirm removals, accept diffs, abandon, release."""
        return self.is_system or bool(self.roles_in(cluster) & {"approver", "admin"})

    @property
    def publishes_for(self) -> frozenset[str] | None:
        """Names of the clusters that this actor may publish events for: operators and admins; None = the whole fleet."""
        scopes = frozenset(scope for role, scope in self.bindings if role in ("operator", "admin"))
        return None if self.is_system or EVERYWHERE in scopes else scopes


SYSTEM = Actor("system:fleet", is_system=True)
ANONYMOUS = Actor("system:anonymous")
