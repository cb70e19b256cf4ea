-- Guards beside budgets and breakers: windows, one failure domain at a time, rates, reserves, quorums; and all guards asked without asking for a permit.
-- Each function answers for the places of the asked machines: a few rows, whatever the size of the batch.

CREATE FUNCTION safety_place_in(dim text, name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN dim = 'fleet' THEN 'in the whole fleet' WHEN name = '' THEN 'among machines without ' || dim ELSE format('in %s %s', CASE dim WHEN 'model' THEN 'hardware model' ELSE dim END, name) END
$$;

-- The places of these machines, the widest first.
CREATE FUNCTION safety_places(p_ids bigint[]) RETURNS TABLE (dim text, key int, rank int) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT DISTINCT v.dim, v.key, v.rank FROM (SELECT DISTINCT c.cluster_id, c.idc_id, c.model_id, c.rack_id FROM capacity c WHERE c.machine_id = ANY (p_ids)) a,
    LATERAL (VALUES ('fleet', 0, 0), ('cluster', a.cluster_id, 1), ('idc', a.idc_id::int, 2), ('model', a.model_id::int, 3), ('rack', a.rack_id, 4)) AS v(dim, key, rank);
END $$;

-- One policy's windows at a moment: whether one is open, and when the next opens. The jitter shifts a beginning by a part of
-- jitterMinutes that hangs on the salt, so that clusters of one policy do not all begin at once. What cannot be read is closed.
CREATE FUNCTION safety_window(p_windows jsonb, p_now timestamptz, p_salt text) RETURNS TABLE (open boolean, next timestamptz) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT coalesce(bool_or(t.begins <= p_now AND t.ends > p_now), false), min(t.begins) FILTER (WHERE t.begins > p_now)
  FROM (SELECT x.at + make_interval(secs => abs(hashtext(p_salt)::bigint) % (60 * coalesce((w.v ->> 'jitterMinutes')::numeric::int, 0) + 1)) AS begins, x.at + make_interval(mins => (w.v ->> 'durationMinutes')::numeric::int) AS ends
    FROM jsonb_array_elements(p_windows) AS w(v)
    CROSS JOIN LATERAL (SELECT coalesce(w.v ->> 'timeZone', 'UTC') AS zone) z
    CROSS JOIN LATERAL (SELECT (p_now AT TIME ZONE z.zone)::date + o.n AS day FROM generate_series(-2, 9) AS o(n)) d
    CROSS JOIN LATERAL (SELECT (d.day + (w.v ->> 'start')::time) AT TIME ZONE z.zone AS at) x
    WHERE coalesce(w.v -> 'days', '[]') = '[]' OR w.v -> 'days' ? (ARRAY['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'])[extract(dow FROM d.day)::int + 1]) t;
EXCEPTION WHEN data_exception OR invalid_parameter_value THEN
  RETURN QUERY SELECT false, NULL::timestamptz;
END $$;

-- Windows of the policies that bind these machines. salt: of the cluster, or of the place itself.
CREATE FUNCTION safety_windows(p_ids bigint[], p_now timestamptz) RETURNS TABLE (dim text, key int, open boolean, message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT s.dim, s.key, w.open, CASE WHEN w.open THEN format('SafetyPolicy %s has a window open.', s.policy)
    ELSE format('Planned changes %s wait for a window of SafetyPolicy %s%s.', safety_place_in(s.dim, coalesce(pl.name, '')), s.policy,
      CASE WHEN w.next IS NULL THEN ', which has none that can be read' ELSE format('; the next opens at %s UTC', to_char(w.next AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')) END) END
  FROM safety_scopes() s JOIN safety_places(p_ids) p ON p.dim = s.dim AND p.key = s.key LEFT JOIN safety_place pl ON pl.dim = s.dim AND pl.key = s.key
  CROSS JOIN LATERAL safety_window(s.spec -> 'windows', p_now, s.dim || s.key) w WHERE s.spec ? 'windows' ORDER BY p.rank, s.policy;
END $$;

-- At which level planned changes go one domain at a time in each of these clusters: rack unless a policy of the cluster, or one of
-- the whole fleet, says idc or none; of several the strictest. busy = domains where a planned change has a right that goes on.
CREATE FUNCTION safety_domains(p_ids bigint[]) RETURNS TABLE (key int, level text, busy int[], message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH l AS MATERIALIZED (
    SELECT p.key, coalesce((SELECT CASE WHEN bool_or(s.spec ->> 'domain' = 'rack') THEN 'rack' ELSE min(s.spec ->> 'domain') END FROM safety_scopes() s WHERE s.dim = 'cluster' AND s.key = p.key AND s.spec ? 'domain'),
      (SELECT CASE WHEN bool_or(s.spec ->> 'domain' = 'rack') THEN 'rack' ELSE min(s.spec ->> 'domain') END FROM safety_scopes() s WHERE s.dim = 'fleet' AND s.spec ? 'domain'), 'rack') AS level
    FROM safety_places(p_ids) p WHERE p.dim = 'cluster')
  SELECT l.key, l.level, b.at, CASE WHEN b.at = '{}' THEN '' ELSE safety_domain_busy(l.key, l.level, b.at[1]) END
  FROM l CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(DISTINCT d.id), '{}') AS at FROM permit p CROSS JOIN LATERAL (SELECT CASE l.level WHEN 'rack' THEN p.rack_id ELSE p.idc_id::int END AS id) d CROSS JOIN LATERAL (SELECT in_service FROM capacity WHERE machine_id = p.machine_id OFFSET 0) k
    WHERE l.level <> 'none' AND p.released_at IS NULL AND p.cluster_id = l.key AND p.draws AND NOT p.unplanned AND p.expires_at > now() AND d.id <> 0 AND k.in_service) b;
END $$;

CREATE FUNCTION safety_domain_busy(p_cluster int, p_level text, p_key int) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN format('Planned changes %s are under way in %s %s: one %s at a time, this waits until they have ended.',
    safety_place_in('cluster', coalesce((SELECT pl.name FROM safety_place pl WHERE pl.dim = 'cluster' AND pl.key = p_cluster), '')), p_level,
    coalesce((SELECT pl.name FROM safety_place pl WHERE pl.dim = p_level AND pl.key = p_key), p_key::text), p_level);
END $$;

-- How often a verb may begin: rates of policies, and where none speaks of that verb and place, those below: verbs that end what runs
-- on a machine have caps of their own. used = begun within the window.
CREATE FUNCTION safety_rates(p_ids bigint[], p_verbs text[], p_now timestamptz) RETURNS TABLE (verb text, dim text, key int, cap int, used int, message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH v AS MATERIALIZED (SELECT DISTINCT lower(u.verb) AS verb FROM unnest(p_verbs) AS u(verb)),
  p AS MATERIALIZED (SELECT * FROM safety_places(p_ids)),
  said AS MATERIALIZED (
    SELECT s.dim, s.key, lower(r.v ->> 'verb') AS verb, (r.v ->> 'count')::numeric::int AS cap, (r.v ->> 'windowSeconds')::numeric::int AS seconds, s.policy
    FROM safety_scopes() s CROSS JOIN LATERAL jsonb_array_elements(s.spec -> 'rates') AS r(v) WHERE jsonb_typeof(s.spec -> 'rates') = 'array' AND s.key IS NOT NULL),
  built AS (
    SELECT p.dim, p.key, d.verb, CASE p.dim WHEN 'cluster' THEN d.cluster ELSE d.fleet END AS cap, 600 AS seconds, '' AS policy
    FROM p JOIN (VALUES ('reboot', 100, 500), ('reinstall', 20, 100), ('wipe', 10, 50)) AS d(verb, cluster, fleet) ON p.dim IN ('cluster', 'fleet')),
  bound AS MATERIALIZED (
    SELECT x.*, p.rank FROM (SELECT * FROM said UNION ALL SELECT b.* FROM built b WHERE NOT EXISTS (SELECT FROM said q WHERE q.dim = b.dim AND q.key = b.key AND q.verb = b.verb)) x
    JOIN p ON p.dim = x.dim AND p.key = x.key JOIN v ON v.verb = x.verb)
  SELECT b.verb, b.dim, b.key, b.cap, n.used, format('%s was begun on as many machines %s as may be, %s within %s%s: this waits until the first of them lies further back.', initcap(b.verb),
    safety_place_in(b.dim, coalesce(pl.name, '')), b.cap, CASE WHEN b.seconds % 60 = 0 THEN b.seconds / 60 || ' min' ELSE b.seconds || ' s' END, CASE WHEN b.policy <> '' THEN format(' (SafetyPolicy %s)', b.policy) ELSE '' END)
  FROM bound b LEFT JOIN safety_place pl ON pl.dim = b.dim AND pl.key = b.key
  CROSS JOIN LATERAL (SELECT count(*)::int AS used FROM verb_start s WHERE s.verb = b.verb AND s.at > p_now - make_interval(secs => b.seconds)
    AND b.key = CASE b.dim WHEN 'fleet' THEN 0 WHEN 'cluster' THEN s.cluster_id WHEN 'idc' THEN s.idc_id WHEN 'model' THEN s.model_id ELSE s.rack_id END) n
  ORDER BY b.rank, b.cap;
END $$;

-- Machines that must stay available in a scope, whatever the budget says.
CREATE FUNCTION safety_reserves(p_ids bigint[]) RETURNS TABLE (dim text, key int, room int, message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH m AS MATERIALIZED (
    SELECT s.dim, s.key, max((s.spec ->> 'minSchedulable')::numeric::int) AS least, string_agg(s.policy, ', ' ORDER BY s.policy) AS policy, min(p.rank) AS rank
    FROM safety_scopes() s JOIN safety_places(p_ids) p ON p.dim = s.dim AND p.key = s.key WHERE s.spec ? 'minSchedulable' GROUP BY 1, 2),
  u AS (SELECT d.dim, x.* FROM (SELECT m.dim, array_agg(m.key) AS keys FROM m GROUP BY 1) d, LATERAL safety_usage(d.dim, d.keys) x)
  SELECT m.dim, m.key, coalesce(u.total - u.gone, 0) - m.least, format('%s must stay available %s (SafetyPolicy %s), and no more are: this waits until one is back.', m.least, safety_place_in(m.dim, coalesce(pl.name, '')), m.policy)
  FROM m LEFT JOIN u ON u.dim = m.dim AND u.key = m.key LEFT JOIN safety_place pl ON pl.dim = m.dim AND pl.key = m.key ORDER BY m.rank;
END $$;

-- Control planes whose quorum a machine has a part in, by name of their clusters: that of its label, and those with members of an etcd on it.
CREATE FUNCTION safety_planes(p_id bigint, p_labels jsonb, p_carrying boolean) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
DECLARE said text := coalesce(p_labels ->> 'fleet.dev/control-plane', '');
BEGIN
  IF NOT p_carrying THEN RETURN CASE WHEN said = '' THEN '{}' ELSE ARRAY[said] END; END IF;
  RETURN ARRAY(SELECT said WHERE said <> '' UNION SELECT pl.name FROM carried k JOIN safety_place pl ON pl.dim = 'cluster' AND pl.key = k.plane_id WHERE k.machine_id = p_id AND k.member ORDER BY 1);
END $$;

-- How many more of the machines that carry a control plane may go: of n members of an etcd floor((n-1)/2) may be away, or nobody can
-- write any more. Those are meant that Fleet put members of its etcd on (carried) and those that a person calls so (label
-- fleet.dev/control-plane: its cluster). Of fewer than three none may go where a person says so; where Fleet put them there nothing
-- could ever be done to such a machine, and that its control plane is ready stands elsewhere.
-- The sentence has no count that moves: the row of who waits stays as it is.
CREATE FUNCTION safety_quorum(p_plane text) RETURNS TABLE (room int, message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT CASE WHEN n.total < 3 AND NOT n.said THEN n.total ELSE (n.total - 1) / 2 - n.gone END, CASE WHEN n.total < 3 THEN
      format('%s machine%s the control plane of cluster %s: fewer than three bear no loss, so none is taken away.', n.total, CASE WHEN n.total = 1 THEN ' carries' ELSE 's carry' END, p_plane)
    ELSE format('%s machines carry the control plane of cluster %s, and at most %s may be unavailable, or its quorum is lost: this waits until one is back.', n.total, p_plane, (n.total - 1) / 2) END
  FROM (SELECT count(*)::int AS total, coalesce(bool_or(m.said), false) AS said, (count(*) FILTER (WHERE c.down OR EXISTS (SELECT FROM permit p WHERE p.machine_id = c.machine_id AND p.released_at IS NULL AND p.draws)))::int AS gone
    FROM (SELECT b.machine_id, bool_or(b.said) AS said FROM (SELECT k.machine_id, true AS said FROM safety_target_by_key k WHERE k.labels @> jsonb_build_object('fleet.dev/control-plane', p_plane)
      UNION ALL SELECT k.machine_id, false FROM carried k JOIN safety_place pl ON pl.dim = 'cluster' AND pl.key = k.plane_id WHERE pl.name = p_plane AND k.member) b GROUP BY 1) m
    CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = m.machine_id OFFSET 0) c WHERE c.in_service) n;
END $$;

-- All guards in the order in which permits ask them, for one machine, without asking for a permit. The first that does not hold is the answer.
CREATE FUNCTION safety_why(p_id bigint, p_verb text, p_unplanned boolean, p_owner text) RETURNS TABLE (guard text, ok boolean, reason text, message text) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
  c record; t record; p record; h record; l record; hard boolean; free boolean := safety_class(p_verb) = 'relieving';
  moment timestamptz := clock_timestamp(); owned boolean; price int; n int; d int;
BEGIN
  SELECT * INTO l FROM ledger WHERE id = 1;
  RETURN QUERY SELECT 'The kill switch is off', l.id IS NOT NULL AND NOT l.stopped, 'Stopped', CASE WHEN l.stopped THEN format('The kill switch is on%s%s: nothing starts anywhere.', ' by ' || l.stopped_by, ': ' || l.stopped_why) ELSE '' END;
  SELECT * INTO c FROM capacity WHERE machine_id = p_id;
  RETURN QUERY SELECT 'The ledger knows the machine', c.machine_id IS NOT NULL, 'MachineUnknown', CASE WHEN c.machine_id IS NULL THEN 'The safety ledger does not know this machine.' ELSE '' END;
  IF c.machine_id IS NULL THEN RETURN; END IF;
  SELECT * INTO h FROM safety_held(ARRAY[p_id]);
  RETURN QUERY SELECT 'No hold covers it', free OR h.hold IS NULL, 'Held', CASE WHEN h.hold IS NOT NULL THEN format('Hold %s%s covers it: %s', h.hold, CASE WHEN h.owner <> '' THEN format(' of %s', h.owner) ELSE '' END, h.reason) ELSE '' END;
  SELECT * INTO t FROM safety_target_by_key WHERE machine_id = p_id;
  RETURN QUERY SELECT 'It is not paused', free OR NOT coalesce(t.paused, false), 'Paused', CASE WHEN t.paused THEN 'The machine or its cluster is paused.' ELSE '' END;
  SELECT * INTO p FROM permit WHERE machine_id = p_id AND released_at IS NULL;
  RETURN QUERY SELECT 'Nothing else is under way on it', p.id IS NULL OR p.owner = p_owner OR p.expires_at <= now(), 'OperationInProgress', CASE WHEN p.owner <> p_owner AND p.expires_at > now() THEN format('%s of %s is still under way on this machine.', p.verb, p.owner) ELSE '' END;
  hard := safety_class(p_verb) = 'destructive' OR safety_class(p_verb) = 'disruptive' AND c.in_service;
  IF NOT hard THEN RETURN; END IF;
  owned := coalesce(p.draws AND p.owner = p_owner AND (safety_class(p_verb) <> 'destructive' OR safety_class(p.verb) = 'destructive'), false);
  price := CASE WHEN c.in_service AND NOT c.down AND NOT coalesce(p.draws, false) THEN 1 ELSE 0 END;
  RETURN QUERY SELECT 'The breaker of ' || breaker_place(b.dim, b.name) || ' lets it through', owned OR b.state = 'closed' AND NOT (p_unplanned AND b.hit >= b.most) OR b.state = 'half-open' AND b.room > 0,
      CASE WHEN b.state = 'half-open' THEN 'HalfOpen' ELSE initcap(b.dim) || 'Breaker' END,
      CASE WHEN b.state = 'closed' THEN breaker_limit(b.hit, b.percent, b.cap, b.seconds) ELSE breaker_sentence(b.dim, b.name, b.state, b.since, b.last_at, b.seconds, b.why, b.allow) END
    FROM breakers_of(ARRAY[p_id], moment, true) b;
  IF NOT p_unplanned THEN
    RETURN QUERY SELECT 'A maintenance window is open', owned OR w.open, 'OutsideWindow', w.message FROM safety_windows(ARRAY[p_id], moment) w;
    RETURN QUERY SELECT 'No planned change is under way in another failure domain', owned OR x.d = 0 OR x.busy <@ ARRAY[x.d], 'DomainBusy', x.message
      FROM (SELECT s.*, CASE WHEN NOT c.in_service THEN 0 WHEN s.level = 'rack' THEN c.rack_id WHEN s.level = 'idc' THEN c.idc_id::int ELSE 0 END AS d FROM safety_domains(ARRAY[p_id]) s) x;
  END IF;
  RETURN QUERY SELECT format('%s is begun seldom enough %s', initcap(r.verb), safety_place_in(r.dim, coalesce(pl.name, ''))), owned AND lower(p.verb) = lower(p_verb) OR r.used < r.cap, 'Rate', CASE WHEN r.used < r.cap THEN format('%s of %s', r.used, r.cap) ELSE r.message END
    FROM safety_rates(ARRAY[p_id], ARRAY[p_verb], moment) r LEFT JOIN safety_place pl ON pl.dim = r.dim AND pl.key = r.key;
  RETURN QUERY SELECT format('The budget %s has room', safety_place_in(b.dim, b.name)), price = 0 OR b.gone + price <= m.most, initcap(b.dim) || 'Budget',
      CASE WHEN b.gone + price <= m.most THEN format('%s of %s machines are unavailable; at most %s may be.', b.gone, b.total, m.most) WHEN price = 0 THEN 'The machine is unavailable already: it costs nothing.'
        ELSE safety_sentence(b.dim, b.name, m.most, b.total, b.gone, NOT p_unplanned AND m.most < b.cap, b.policy) END
    FROM safety_limits(ARRAY[p_id]) b CROSS JOIN LATERAL (SELECT CASE WHEN p_unplanned THEN b.cap ELSE b.planned_cap END AS most) m;
  RETURN QUERY SELECT 'The reserve stays', price = 0 OR r.room >= price, 'Reserve', CASE WHEN r.room >= price THEN format('%s more may go.', r.room) ELSE r.message END FROM safety_reserves(ARRAY[p_id]) r;
  RETURN QUERY SELECT 'The control plane of cluster ' || y.plane || ' keeps its quorum', price = 0 OR q.room >= price, 'Quorum', CASE WHEN q.room >= price THEN format('%s more may go.', q.room) ELSE q.message END
    FROM unnest(safety_planes(p_id, t.labels, true)) WITH ORDINALITY AS y(plane, n) CROSS JOIN LATERAL safety_quorum(y.plane) q ORDER BY y.n;
END $$;
