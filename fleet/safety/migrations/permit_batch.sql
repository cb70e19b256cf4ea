-- The grants of the ledger; asked through `fleet/safety/permits.py`.
--
-- OFFSET 0 keeps a lookup by key a lookup: while statistics call a table empty that was filled a moment ago, the planner reads the
-- whole of it for each machine that is asked for. Arrays beside a join bound updates in the same way.

-- How hard a verb is to undo. A verb nobody knows is disruptive: it draws on the budget.
CREATE FUNCTION safety_class(verb text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN lower(verb) IN ('open', 'uncordon', 'renew', 'cancel') THEN 'relieving'
    WHEN lower(verb) IN ('none', 'reload', 'stage') THEN 'reversible'
    WHEN lower(verb) IN ('remove', 'reinstall', 'replace', 'wipe', 'decommission') THEN 'destructive'
    ELSE 'disruptive' END
$$;

-- Where each policy holds. Names are resolved when asked, so that a policy may come before its cluster: until then key is null.
-- Views safety_place and safety_target_by_key are given by the apps above.
CREATE FUNCTION safety_scopes() RETURNS TABLE (policy text, dim text, key int, spec jsonb) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT p.name::text, s.dim, CASE WHEN s.dim = 'fleet' THEN 0 ELSE pl.key END, p.spec
  FROM safety_safetypolicy p
  CROSS JOIN LATERAL (VALUES ('fleet', CASE WHEN p.spec #> '{scope,matchAll}' = 'true' THEN '' END), ('cluster', p.spec #>> '{scope,cluster}'), ('idc', p.spec #>> '{scope,idc}'),
    ('rack', p.spec #>> '{scope,rack}'), ('model', p.spec #>> '{scope,hardwareModel}')) AS s(dim, name)
  LEFT JOIN safety_place pl ON pl.dim = s.dim AND pl.name = s.name
  WHERE s.name IS NOT NULL AND p.deleted_at IS NULL;
END $$;

-- Budgets that policies set. Without count or percent that bound is open.
CREATE FUNCTION safety_budgets() RETURNS TABLE (dim text, key int, max_count int, max_percent numeric, policy text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT s.dim, s.key, coalesce((s.spec #>> '{maxUnavailable,count}')::numeric::int, 2147483647), coalesce((s.spec #>> '{maxUnavailable,percent}')::numeric, 100), s.policy
  FROM safety_scopes() s WHERE s.spec ? 'maxUnavailable' AND s.key IS NOT NULL;
END $$;

-- Whether a hold's target means that machine. What names nothing means nothing.
CREATE FUNCTION safety_matches(target jsonb, name text, cluster text, labels jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(target -> 'matchAll' = 'true', false) OR coalesce(target ->> 'machine' = name, false) OR coalesce(target ->> 'cluster' = cluster AND cluster <> '', false)
    OR coalesce(target #> '{selector,matchLabels}' <> '{}' AND labels @> (target #> '{selector,matchLabels}'), false)
$$;

-- Which hold covers a machine now: the one that lasts longest. A time that cannot be read never ends the hold.
CREATE FUNCTION safety_held(p_ids bigint[]) RETURNS TABLE (machine_id bigint, hold text, reason text, owner text, until timestamptz) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH h AS MATERIALIZED (
    SELECT x.name::text AS hold, x.spec, coalesce(x.spec ->> 'reason', '') AS why, coalesce(x.spec ->> 'owner', '') AS who,
      CASE WHEN pg_input_is_valid(x.spec ->> 'until', 'timestamptz') THEN (x.spec ->> 'until')::timestamptz ELSE 'infinity' END AS ends
    FROM safety_hold x WHERE x.deleted_at IS NULL),
  t AS MATERIALIZED (
    SELECT s.* FROM unnest(p_ids) AS a(id) CROSS JOIN LATERAL (SELECT * FROM safety_target_by_key k WHERE k.machine_id = a.id OFFSET 0) s WHERE EXISTS (SELECT FROM h))
  SELECT DISTINCT ON (t.machine_id) t.machine_id, h.hold, h.why, h.who, h.ends
  FROM h JOIN t ON safety_matches(h.spec -> 'target', t.name, t.cluster, t.labels)
  WHERE h.ends > now() ORDER BY t.machine_id, h.ends DESC, h.hold;
END $$;

-- total = machines in service, gone = the unavailable among them: down, or under an unreleased permit of a verb that takes capacity.
-- Of a whole fleet it may read the whole table, also where its caller reads none.
CREATE FUNCTION safety_usage(p_dim text, p_keys int[]) RETURNS TABLE (key int, total int, gone int) LANGUAGE plpgsql STABLE STRICT SET enable_seqscan = on AS $$
DECLARE col text := p_dim || '_id'; apart int[];
BEGIN
  IF p_dim = 'fleet' THEN
    -- a cluster whose breaker is open takes nothing from the others, and lends them nothing
    apart := coalesce((SELECT array_agg(b.key) FROM breaker b WHERE b.dim = 'cluster' AND b.state = 'open'), '{}');
    RETURN QUERY SELECT 0, (SELECT count(*)::int FROM capacity c WHERE c.in_service AND c.cluster_id <> ALL (apart)),
      ((SELECT count(*) FROM capacity c WHERE c.in_service AND c.down AND c.cluster_id <> ALL (apart))
      + (SELECT count(*) FROM permit p CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = p.machine_id OFFSET 0) c
        WHERE p.released_at IS NULL AND p.draws AND c.in_service AND NOT c.down AND c.cluster_id <> ALL (apart)))::int;
    RETURN;
  END IF;
  RETURN QUERY EXECUTE format('SELECT u.key::int, sum(u.total)::int, sum(u.gone)::int FROM (
      SELECT c.%1$I AS key, count(*) AS total, 0::bigint AS gone FROM capacity c WHERE c.in_service AND c.%1$I = ANY ($1) GROUP BY 1
      UNION ALL SELECT c.%1$I, 0, count(*) FROM capacity c WHERE c.in_service AND c.down AND c.%1$I = ANY ($1) GROUP BY 1
      UNION ALL SELECT c.%1$I, 0, count(*) FROM permit p CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = p.machine_id OFFSET 0) c
        WHERE p.released_at IS NULL AND p.draws AND c.in_service AND NOT c.down AND c.%1$I = ANY ($1) GROUP BY 1) u GROUP BY 1', col) USING p_keys;
END $$;

-- Machines of other clusters that carry pods of these clusters' control planes: each counts as one more machine of theirs.
CREATE FUNCTION safety_carriers(p_clusters int[]) RETURNS TABLE (key int, total int, gone int) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT k.plane_id, count(*)::int, (count(*) FILTER (WHERE c.down OR EXISTS (SELECT FROM permit p WHERE p.machine_id = k.machine_id AND p.released_at IS NULL AND p.draws)))::int
  FROM carried k CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = k.machine_id OFFSET 0) c
  WHERE k.plane_id = ANY (p_clusters) AND c.in_service AND c.cluster_id <> k.plane_id GROUP BY 1;
END $$;

-- The limits that bind these machines, with how far each is used. A cluster has 3 %, at most 600, where no policy says otherwise; the strictest policy counts.
-- A machine that carries a control plane is bound by the budget of that cluster as well.
CREATE FUNCTION safety_limits(p_ids bigint[]) RETURNS TABLE (dim text, key int, name text, cap int, planned_cap int, total int, gone int, policy text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH b AS MATERIALIZED (SELECT s.dim, s.key, min(s.max_count) AS max_count, min(s.max_percent) AS max_percent, string_agg(s.policy, ', ' ORDER BY s.policy) AS policy FROM safety_budgets() s GROUP BY 1, 2),
  asked AS MATERIALIZED (SELECT DISTINCT c.cluster_id, c.idc_id, c.model_id, c.rack_id FROM capacity c WHERE c.machine_id = ANY (p_ids)),
  wanted AS (SELECT DISTINCT w.dim, w.key FROM asked a, LATERAL (VALUES ('fleet', 0), ('cluster', a.cluster_id), ('idc', a.idc_id::int), ('model', a.model_id::int), ('rack', a.rack_id)) AS w(dim, key)
    UNION SELECT 'cluster', k.plane_id FROM carried k WHERE k.machine_id = ANY (p_ids)),
  bound AS MATERIALIZED (SELECT w.dim, w.key, coalesce(b.max_count, 600) AS max_count, coalesce(b.max_percent, 3) AS max_percent, coalesce(b.policy, '') AS policy
    FROM wanted w LEFT JOIN b ON b.dim = w.dim AND b.key = w.key WHERE w.dim = 'cluster' OR b.policy IS NOT NULL),
  sized AS (SELECT d.dim, u.key, u.total, u.gone FROM (SELECT o.dim, array_agg(o.key) AS keys FROM bound o GROUP BY o.dim) d, LATERAL safety_usage(d.dim, d.keys) u),
  borne AS (SELECT x.* FROM (SELECT array_agg(o.key) AS keys FROM bound o WHERE o.dim = 'cluster') d, LATERAL safety_carriers(d.keys) x WHERE EXISTS (SELECT FROM carried)),
  counted AS (SELECT o.*, coalesce(z.total, 0) + coalesce(y.total, 0) AS total, coalesce(z.gone, 0) + coalesce(y.gone, 0) AS gone
    FROM bound o LEFT JOIN sized z ON z.dim = o.dim AND z.key = o.key LEFT JOIN borne y ON o.dim = 'cluster' AND y.key = o.key),
  capped AS (SELECT o.*,
      CASE WHEN o.max_count = 0 OR o.max_percent = 0 THEN 0 ELSE greatest(1, least(o.max_count::numeric, floor(o.total * o.max_percent / 100)))::int END AS cap FROM counted o)
  SELECT c.dim, c.key, coalesce(pl.name, ''), c.cap, CASE WHEN c.cap = 0 THEN 0 ELSE greatest(1, c.cap - c.cap / 4) END, c.total, c.gone, c.policy
  FROM capped c LEFT JOIN safety_place pl ON pl.dim = c.dim AND pl.key = c.key ORDER BY CASE c.dim WHEN 'fleet' THEN 0 WHEN 'cluster' THEN 1 ELSE 2 END, c.dim, c.key;
END $$;

CREATE FUNCTION safety_sentence(dim text, name text, cap int, total int, gone int, planned boolean, policy text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT format('%s %s of %s machines %s unavailable, and at most %s may be%s%s: this waits until one is back.',
    CASE WHEN dim = 'fleet' THEN 'In the whole fleet' WHEN name = '' THEN 'Among machines without ' || dim ELSE format('In %s %s', CASE dim WHEN 'model' THEN 'hardware model' ELSE dim END, name) END,
    gone, total, CASE WHEN gone = 1 THEN 'is' ELSE 'are' END, cap, CASE WHEN planned THEN ' for planned changes' ELSE '' END, CASE WHEN policy <> '' THEN format(' (SafetyPolicy %s)', policy) ELSE '' END)
$$;

-- May these happen? One ask per machine, answered in the asker's order, all against one ledger. To be called as one autocommit
-- statement: no client can stop between lock and commit. Plans are kept, also those of the functions below it: to plan them anew for
-- one machine takes as long as to run them. None of them may read a whole table, or one kept from when there was hardly a permit would do
-- so for each machine of a storm. What no row speaks of is not asked.
CREATE FUNCTION permit_each(p_ids bigint[], p_verbs text[], p_unplanned boolean[], p_owners text[], p_ttls int[])
RETURNS TABLE (machine_id bigint, ok boolean, reason text, message text, permit_id bigint) LANGUAGE plpgsql VOLATILE SET lock_timeout = '2s' SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  halt record; r record; lim record; brk record; base bigint; moment timestamptz; guarded boolean; counting boolean; hard boolean; owned boolean; begins boolean; at int; places int[]; wide int;
  codes bigint[] := '{}'; states text[] := '{}'; rooms int[] := '{}'; mosts int[] := '{}'; hits int[] := '{}'; froms timestamptz[] := '{}'; stops text[] := '{}'; parts numeric[] := '{}'; tops int[] := '{}'; trips text[] := '{}';
  bdims text[] := '{}'; bkeys int[] := '{}'; bnames text[] := '{}'; spans int[] := '{}'; starts boolean[] := '{}'; tried bigint[] := '{}'; tries int[] := '{}';
  plans boolean; same boolean; tripped boolean; priced bigint[]; shut record; dom record; shuts jsonb := '[]'; doms jsonb := '{}'; mydom int; x jsonb; quorums jsonb := '{}'; plane text; held boolean; carrying boolean; told record;
  rverbs text[] := '{}'; rdims text[] := '{}'; rkeys int[] := '{}'; rrooms int[] := '{}'; rsaid text[] := '{}'; vdims text[] := '{}'; vkeys int[] := '{}'; vrooms int[] := '{}'; vsaid text[] := '{}'; begun boolean[] := '{}';
  dims text[] := '{}'; keys int[] := '{}'; names text[] := '{}'; caps int[] := '{}'; planned int[] := '{}'; totals int[] := '{}'; used int[] := '{}'; policies text[] := '{}';
  oks boolean[] := '{}'; reasons text[] := '{}'; messages text[] := '{}'; costs int[] := '{}'; mine int[]; theirs int[]; kept int[]; why text; said text; price int; most int;
BEGIN
  PERFORM 1 FROM ledger WHERE id = 1 FOR UPDATE;  -- the one lock. What was granted while we waited is seen by the statements below only.
  moment := clock_timestamp();
  IF EXISTS (SELECT FROM breaker b WHERE b.state <> 'closed') THEN PERFORM breaker_turn(moment); END IF;
  SELECT coalesce(bool_or(l.stopped), true) AS stopped, max(l.stopped_by) AS who, max(l.stopped_why) AS what INTO halt FROM ledger l WHERE l.id = 1;
  -- Who is down, or out of service, costs nothing: no budget has to be counted for it.
  priced := ARRAY(SELECT DISTINCT a.id FROM unnest(p_ids) AS a(id) CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c WHERE c.in_service AND NOT c.down);
  held := EXISTS (SELECT FROM safety_hold s WHERE s.deleted_at IS NULL); carrying := EXISTS (SELECT FROM carried);
  SELECT coalesce(bool_or(s.spec ? 'rates'), false) AS rates, coalesce(bool_or(s.spec ? 'minSchedulable'), false) AS reserves INTO told FROM safety_safetypolicy s WHERE s.deleted_at IS NULL;
  FOR lim IN SELECT * FROM safety_limits(priced) WHERE cardinality(priced) > 0 LOOP
    dims := dims || lim.dim; keys := keys || lim.key; names := names || lim.name; caps := caps || lim.cap; planned := planned || lim.planned_cap;
    totals := totals || lim.total; used := used || lim.gone; policies := policies || lim.policy;
  END LOOP;
  SELECT coalesce(bool_or(safety_class(v.verb) IN ('disruptive', 'destructive')), false), coalesce(bool_or(v.unplanned AND safety_class(v.verb) IN ('disruptive', 'destructive')), false)
    INTO guarded, counting FROM unnest(p_verbs, p_unplanned) AS v(verb, unplanned);
  WHILE guarded LOOP
    tripped := false; codes := '{}'; bdims := '{}'; bkeys := '{}'; bnames := '{}'; spans := '{}'; rooms := '{}'; mosts := '{}'; hits := '{}'; froms := '{}'; states := '{}'; trips := '{}'; stops := '{}'; parts := '{}'; tops := '{}';
    FOR brk IN SELECT * FROM breakers_of(p_ids, moment, counting, cardinality(p_ids)) LOOP
      IF counting AND brk.state <> 'open' AND brk.hit >= brk.most THEN  -- a limit may be met before anything starts: machines have left service since the last start
        PERFORM breaker_open(brk.dim, brk.key, breaker_limit(brk.hit, brk.percent, brk.cap, brk.seconds), moment); tripped := true;
      END IF;
      codes := codes || brk.code; bdims := bdims || brk.dim; bkeys := bkeys || brk.key; bnames := bnames || brk.name; spans := spans || brk.seconds; rooms := rooms || brk.room;
      mosts := mosts || brk.most; hits := hits || brk.hit; froms := froms || greatest(brk.counted_from, moment - make_interval(secs => brk.seconds)); states := states || brk.state; trips := trips || ''::text;
      stops := stops || CASE WHEN brk.state = 'closed' THEN '' ELSE breaker_sentence(brk.dim, brk.name, brk.state, brk.since, brk.last_at, brk.seconds, brk.why, brk.allow) END; parts := parts || brk.percent; tops := tops || brk.cap;
    END LOOP;
    EXIT WHEN NOT tripped;  -- what has just opened is read as it stands now
  END LOOP;
  SELECT count(*) INTO wide FROM breaker b WHERE b.dim = 'cluster' AND b.state = 'open';
  IF guarded THEN
    SELECT coalesce(bool_or(NOT u.planless), false) INTO plans FROM unnest(p_unplanned) AS u(planless);
    IF plans THEN
      FOR shut IN SELECT * FROM safety_windows(p_ids, moment) w WHERE NOT w.open LOOP shuts := shuts || jsonb_build_array(jsonb_build_array(shut.dim, shut.key, shut.message)); END LOOP;
      FOR dom IN SELECT * FROM safety_domains(p_ids) LOOP doms := doms || jsonb_build_object(dom.key, jsonb_build_array(dom.level, coalesce(dom.busy[1], 0), cardinality(dom.busy), dom.message)); END LOOP;
    END IF;
    -- without a policy only these verbs have rates
    IF told.rates OR EXISTS (SELECT FROM unnest(p_verbs) AS v(verb) WHERE lower(v.verb) IN ('reboot', 'reinstall', 'wipe')) THEN
      FOR lim IN SELECT * FROM safety_rates(p_ids, p_verbs, moment) LOOP
        rverbs := rverbs || lim.verb; rdims := rdims || lim.dim; rkeys := rkeys || lim.key; rrooms := rrooms || greatest(0, lim.cap - lim.used); rsaid := rsaid || lim.message;
      END LOOP;
    END IF;
    IF told.reserves AND cardinality(priced) > 0 THEN
      FOR lim IN SELECT * FROM safety_reserves(priced) LOOP
        vdims := vdims || lim.dim; vkeys := vkeys || lim.key; vrooms := vrooms || lim.room; vsaid := vsaid || lim.message;
      END LOOP;
    END IF;
  END IF;
  FOR r IN
    SELECT a.ord::int AS ord, a.id, a.verb, a.unplanned, a.owner, c.machine_id IS NOT NULL AS known, c.in_service, c.down, c.cluster_id, c.idc_id, c.model_id, c.rack_id,
      safety_class(a.verb) AS class, p.id AS open_id, p.owner AS open_owner, p.verb AS open_verb, p.draws AS open_draws, p.unplanned AS open_unplanned, safety_class(p.verb) AS open_class, p.expires_at <= now() AS over, s.last AS struck, h.hold, h.reason AS hold_reason, h.owner AS hold_owner,
      coalesce(t.paused, false) AS paused, safety_planes(a.id, t.labels, carrying) AS planes, CASE WHEN carrying THEN ARRAY(SELECT k.plane_id FROM carried k WHERE k.machine_id = a.id) ELSE '{}' END AS carries, row_number() OVER (PARTITION BY a.id ORDER BY a.ord) AS nth
    FROM unnest(p_ids, p_verbs, p_unplanned, p_owners) WITH ORDINALITY AS a(id, verb, unplanned, owner, ord)
    LEFT JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c ON true
    LEFT JOIN LATERAL (SELECT * FROM permit WHERE machine_id = a.id AND released_at IS NULL OFFSET 0) p ON true
    LEFT JOIN (SELECT * FROM safety_held(p_ids) s WHERE held OFFSET 0) h ON h.machine_id = a.id LEFT JOIN LATERAL (SELECT paused, labels FROM safety_target_by_key WHERE machine_id = a.id OFFSET 0) t ON true
    LEFT JOIN LATERAL (SELECT max(k.at) AS last FROM breaker_strike k WHERE guarded AND k.machine_id = a.id) s ON true
    ORDER BY a.ord
  LOOP
    why := NULL; said := ''; mine := '{}'; places := '{}'; theirs := '{}'; kept := '{}'; begins := false; x := NULL;
    -- a machine out of service has no capacity to lose: there only what destroys is bound
    hard := r.class = 'destructive' OR r.class = 'disruptive' AND coalesce(r.in_service, false);
    same := coalesce(r.open_draws AND r.open_owner = r.owner AND lower(r.open_verb) = lower(r.verb), false);
    owned := coalesce(r.open_draws AND r.open_owner = r.owner AND (r.class <> 'destructive' OR r.open_class = 'destructive'), false);
    price := CASE WHEN r.class IN ('disruptive', 'destructive') AND r.in_service AND NOT r.down AND NOT coalesce(r.open_draws, false) THEN 1 ELSE 0 END;
    IF halt.stopped THEN
      why := 'Stopped'; said := format('The kill switch is on%s%s: nothing starts anywhere.', ' by ' || halt.who, ': ' || halt.what);
    ELSIF NOT r.known THEN
      why := 'MachineUnknown'; said := 'The safety ledger does not know this machine.';
    ELSIF r.hold IS NOT NULL AND r.class <> 'relieving' THEN
      why := 'Held'; said := format('Hold %s%s covers it: %s', r.hold, CASE WHEN r.hold_owner <> '' THEN format(' of %s', r.hold_owner) ELSE '' END, r.hold_reason);
    ELSIF r.paused AND r.class <> 'relieving' THEN
      why := 'Paused'; said := 'The machine or its cluster is paused.';
    ELSIF r.nth > 1 OR r.open_id IS NOT NULL AND r.open_owner <> r.owner AND NOT r.over THEN  -- a right that ended is taken over, with its count
      why := 'OperationInProgress'; said := format('%s of %s is still under way on this machine.', coalesce(r.open_verb, r.verb), coalesce(r.open_owner, r.owner));
    ELSIF hard AND NOT owned THEN  -- what is held already goes on
      begins := r.unplanned AND r.in_service;
      places := array_remove(ARRAY[array_position(codes, breaker_code('fleet', 0)), array_position(codes, breaker_code('cluster', r.cluster_id)),
        array_position(codes, breaker_code('idc', r.idc_id)), array_position(codes, breaker_code('rack', r.rack_id))], NULL);
      FOREACH at IN ARRAY places LOOP
        IF why IS NULL AND states[at] = 'open' THEN
          why := initcap(bdims[at]) || 'Breaker'; said := stops[at];
        ELSIF why IS NULL AND states[at] = 'half-open' AND rooms[at] <= 0 THEN
          why := 'HalfOpen'; said := stops[at];
        END IF;
      END LOOP;
      IF why IS NULL AND NOT r.unplanned THEN
        SELECT w.v ->> 2 INTO said FROM jsonb_array_elements(shuts) AS w(v)
        WHERE (w.v ->> 1)::int = (CASE w.v ->> 0 WHEN 'fleet' THEN 0 WHEN 'cluster' THEN r.cluster_id WHEN 'idc' THEN r.idc_id WHEN 'model' THEN r.model_id ELSE r.rack_id END) LIMIT 1;
        IF FOUND THEN why := 'OutsideWindow'; ELSE said := ''; END IF;
        x := doms -> r.cluster_id::text; mydom := CASE WHEN NOT r.in_service THEN 0 WHEN x ->> 0 = 'rack' THEN r.rack_id WHEN x ->> 0 = 'idc' THEN r.idc_id ELSE 0 END;
        IF why IS NULL AND mydom <> 0 AND ((x ->> 2)::int > 1 OR (x ->> 2)::int = 1 AND (x ->> 1)::int <> mydom) THEN why := 'DomainBusy'; said := x ->> 3; END IF;
      END IF;
    END IF;
    IF why IS NULL AND hard AND NOT same THEN
      FOR s IN 1 .. cardinality(rverbs) LOOP
        IF rverbs[s] = lower(r.verb) AND rkeys[s] = (CASE rdims[s] WHEN 'fleet' THEN 0 WHEN 'cluster' THEN r.cluster_id WHEN 'idc' THEN r.idc_id WHEN 'model' THEN r.model_id ELSE r.rack_id END) THEN
          theirs := theirs || s;
          IF rrooms[s] <= 0 AND why IS NULL THEN why := 'Rate'; said := rsaid[s]; END IF;
        END IF;
      END LOOP;
    END IF;
    IF why IS NULL AND price > 0 THEN
      FOR s IN 1 .. cardinality(dims) LOOP
        IF keys[s] = (CASE dims[s] WHEN 'fleet' THEN 0 WHEN 'cluster' THEN r.cluster_id WHEN 'idc' THEN r.idc_id WHEN 'model' THEN r.model_id ELSE r.rack_id END) OR dims[s] = 'cluster' AND keys[s] = ANY (r.carries) THEN
          most := CASE WHEN r.unplanned THEN caps[s] ELSE planned[s] END; mine := mine || s;
          IF used[s] + price > most AND why IS NULL THEN
            why := initcap(dims[s]) || 'Budget'; said := safety_sentence(dims[s], names[s], most, totals[s], used[s], NOT r.unplanned AND most < caps[s], policies[s]);
          END IF;
        END IF;
      END LOOP;
      FOR s IN 1 .. cardinality(vdims) LOOP
        IF vkeys[s] = (CASE vdims[s] WHEN 'fleet' THEN 0 WHEN 'cluster' THEN r.cluster_id WHEN 'idc' THEN r.idc_id WHEN 'model' THEN r.model_id ELSE r.rack_id END) THEN
          kept := kept || s;
          IF vrooms[s] < price AND why IS NULL THEN why := 'Reserve'; said := vsaid[s]; END IF;
        END IF;
      END LOOP;
      FOREACH plane IN ARRAY r.planes LOOP  -- counted when the first of its machines is asked for: hardly any batch has one
        EXIT WHEN why IS NOT NULL;
        IF NOT quorums ? plane THEN quorums := quorums || (SELECT jsonb_build_object(plane, jsonb_build_array(q.room, q.message)) FROM safety_quorum(plane) q); END IF;
        IF (quorums -> plane ->> 0)::int < price THEN why := 'Quorum'; said := quorums -> plane ->> 1; END IF;
      END LOOP;
      IF why IS NULL THEN
        FOR i IN 1 .. cardinality(mine) LOOP used[mine[i]] := used[mine[i]] + price; END LOOP;
        FOR i IN 1 .. cardinality(kept) LOOP vrooms[kept[i]] := vrooms[kept[i]] - price; END LOOP;
        FOREACH plane IN ARRAY r.planes LOOP quorums := jsonb_set(quorums, ARRAY[plane, '0'], to_jsonb((quorums -> plane ->> 0)::int - price)); END LOOP;
      END IF;
    END IF;
    IF why IS NULL THEN
      FOR i IN 1 .. cardinality(theirs) LOOP rrooms[theirs[i]] := rrooms[theirs[i]] - 1; END LOOP;
      IF x IS NOT NULL AND mydom <> 0 AND (x ->> 2)::int = 0 THEN  -- the first of its cluster says which domain has its turn
        doms := jsonb_set(doms, ARRAY[r.cluster_id::text], jsonb_build_array(x ->> 0, mydom, 1, safety_domain_busy(r.cluster_id, x ->> 0, mydom)));
      END IF;
      FOREACH at IN ARRAY places LOOP
        IF states[at] = 'half-open' THEN rooms[at] := rooms[at] - 1; tried := tried || r.id; tries := tries || at; END IF;
        IF begins AND (r.struck IS NULL OR r.struck < froms[at]) THEN
          hits[at] := hits[at] + 1;
          IF hits[at] >= mosts[at] THEN
            trips[at] := breaker_limit(mosts[at], parts[at], tops[at], spans[at]); wide := wide + (bdims[at] = 'cluster')::int;
            states[at] := 'open'; stops[at] := breaker_sentence(bdims[at], bnames[at], 'open', moment, moment, spans[at], trips[at], 0);
            IF bdims[at] = 'cluster' AND wide >= 3 AND bdims[1] = 'fleet' AND states[1] <> 'open' THEN  -- as breaker_open does it below
              states[1] := 'open'; stops[1] := breaker_sentence('fleet', '', 'open', moment, moment, 0, format('The breakers of %s clusters are open.', wide), 0);
            END IF;
          END IF;
        END IF;
      END LOOP;
    END IF;
    starts := starts || (why IS NULL AND begins); begun := begun || (why IS NULL AND hard AND NOT same); oks := oks || (why IS NULL); reasons := reasons || coalesce(why, ''); messages := messages || said; costs := costs || price;
  END LOOP;

  base := fleet_pos(4 * cardinality(p_ids) + 4);
  WITH g AS MATERIALIZED (SELECT a.* FROM unnest(p_ids, p_verbs, p_unplanned, p_owners, p_ttls, oks, costs) WITH ORDINALITY AS a(id, verb, unplanned, owner, ttl, ok, cost, ord) WHERE a.ok),
  again AS (UPDATE permit p SET rv = greatest(base + 4 * g.ord, p.rv + 1), expires_at = now() + make_interval(secs => g.ttl), cost = greatest(p.cost, g.cost), unplanned = g.unplanned, owner = g.owner,
      verb = CASE WHEN p.draws AND p.owner = g.owner AND array_position(ARRAY['relieving', 'reversible', 'disruptive', 'destructive'], safety_class(g.verb)) < array_position(ARRAY['relieving', 'reversible', 'disruptive', 'destructive'], safety_class(p.verb)) THEN p.verb ELSE g.verb END, draws = p.draws OR safety_class(g.verb) IN ('disruptive', 'destructive')
    FROM g WHERE p.machine_id = g.id AND p.machine_id = ANY (p_ids) AND p.released_at IS NULL RETURNING p.id, p.rv, p.cluster_id, 2::smallint AS op),
  fresh AS (INSERT INTO permit (rv, machine_id, verb, unplanned, cost, draws, cluster_id, idc_id, model_id, rack_id, owner, expires_at)
    SELECT base + 4 * g.ord, g.id, g.verb, g.unplanned, g.cost, safety_class(g.verb) IN ('disruptive', 'destructive'), c.cluster_id, c.idc_id, c.model_id, c.rack_id, g.owner, now() + make_interval(secs => g.ttl)
    FROM g CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = g.id OFFSET 0) c
    WHERE NOT EXISTS (SELECT FROM permit o WHERE o.machine_id = g.id AND o.released_at IS NULL OFFSET 0) ORDER BY g.id
    RETURNING id, rv, cluster_id, 1::smallint AS op),
  gone AS (DELETE FROM refusal f USING g WHERE f.machine_id = g.id AND f.machine_id = ANY (p_ids))
  INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 10, op FROM again UNION ALL SELECT rv, id, cluster_id, 10, op FROM fresh;

  INSERT INTO verb_start (verb, at, machine_id, cluster_id, idc_id, model_id, rack_id)
  SELECT lower(a.verb), moment, a.id, c.cluster_id, c.idc_id, c.model_id, c.rack_id FROM unnest(p_ids, p_verbs, begun) AS a(id, verb, begun)
  CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c WHERE a.begun;
  INSERT INTO breaker_strike (machine_id, cluster_id, idc_id, rack_id, at, failed, why)
  SELECT a.id, c.cluster_id, c.idc_id, c.rack_id, moment, false, left(a.verb || ' of ' || a.owner, 1000) FROM unnest(p_ids, p_verbs, p_owners, starts) AS a(id, verb, owner, begun)
  CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c WHERE a.begun;
  IF cardinality(tried) > 0 THEN
    INSERT INTO breaker_trial (dim, key, permit_id) SELECT bdims[a.place], bkeys[a.place], p.id FROM unnest(tried, tries) AS a(id, place)
    CROSS JOIN LATERAL (SELECT id FROM permit WHERE machine_id = a.id AND released_at IS NULL OFFSET 0) p ON CONFLICT DO NOTHING;
  END IF;
  FOR at IN 1 .. cardinality(codes) LOOP
    IF trips[at] <> '' THEN PERFORM breaker_open(bdims[at], bkeys[at], trips[at], moment); END IF;
  END LOOP;

  IF false = ANY (oks) THEN
    INSERT INTO refusal AS f (machine_id, cluster_id, verb, owner, reason, message)
    SELECT DISTINCT ON (a.id) a.id, coalesce(c.cluster_id, 0), a.verb, a.owner, a.reason, a.message
    FROM unnest(p_ids, p_verbs, p_owners, oks, reasons, messages) AS a(id, verb, owner, ok, reason, message)
    LEFT JOIN LATERAL (SELECT cluster_id FROM capacity WHERE machine_id = a.id OFFSET 0) c ON true WHERE NOT a.ok ORDER BY a.id
    ON CONFLICT (machine_id) DO UPDATE SET verb = excluded.verb, owner = excluded.owner, reason = excluded.reason, message = excluded.message, cluster_id = excluded.cluster_id,
      since = CASE WHEN f.reason = excluded.reason THEN f.since ELSE now() END
    WHERE (f.verb, f.owner, f.reason, f.message) IS DISTINCT FROM (excluded.verb, excluded.owner, excluded.reason, excluded.message);
  END IF;

  RETURN QUERY SELECT a.id, a.ok, a.reason, a.message, CASE WHEN a.ok THEN p.id END
  FROM unnest(p_ids, oks, reasons, messages) WITH ORDINALITY AS a(id, ok, reason, message, ord)
  LEFT JOIN LATERAL (SELECT id FROM permit WHERE machine_id = a.id AND released_at IS NULL OFFSET 0) p ON true ORDER BY a.ord;
END $$;

-- One verb of one owner for many machines.
CREATE FUNCTION permit_batch(verb text, unplanned boolean, owner text, ttl interval, ids bigint[])
RETURNS TABLE (machine_id bigint, ok boolean, reason text, message text, permit_id bigint) LANGUAGE sql VOLATILE AS $$
  SELECT * FROM permit_each(ids, array_fill(verb, ARRAY[cardinality(ids)]), array_fill(unplanned, ARRAY[cardinality(ids)]), array_fill(owner, ARRAY[cardinality(ids)]),
    array_fill(extract(epoch FROM ttl)::int, ARRAY[cardinality(ids)]))
$$;
