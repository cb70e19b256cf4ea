-- The breakers of clusters, failure domains and the fleet. A breaker counts unique machines whose fault-driven act started in its window,
-- and machines that failed the post-check of any change: each is a row in breaker_strike, so a restart forgets nothing. Everything below
-- runs under the ledger's one lock, which the caller has taken. p_now is read after the lock: it never runs behind what was granted before.

-- Thresholds that policies set; the strictest of a scope counts, and a breaker is off only where every policy about it says so.
CREATE FUNCTION breaker_rules() RETURNS TABLE (dim text, key int, percent numeric, cap int, seconds int, off boolean, policy text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT s.dim, s.key, min((s.spec #>> '{breaker,percent}')::numeric), min((s.spec #>> '{breaker,count}')::numeric::int), max((s.spec #>> '{breaker,windowSeconds}')::numeric::int),
    bool_and(coalesce(s.spec #> '{breaker,disabled}' = 'true', false)), string_agg(s.policy, ', ' ORDER BY s.policy)
  FROM safety_scopes() s WHERE (s.spec -> 'breaker') - 'podSuccess' <> '{}' AND s.key IS NOT NULL GROUP BY 1, 2;
END $$;

-- What policies say of the pods of a cluster: those of the cluster, or where none of them speaks of pods those of the whole fleet. The
-- strictest counts, as above; null = nobody says it.
CREATE FUNCTION breaker_pods(p_cluster int) RETURNS TABLE (percent numeric, at_least int, seconds int, off boolean, policy text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH s AS MATERIALIZED (SELECT a.dim, a.policy, a.spec #> '{breaker,podSuccess}' AS pods FROM safety_scopes() a WHERE (a.dim = 'cluster' AND a.key = p_cluster OR a.dim = 'fleet') AND a.spec #> '{breaker,podSuccess}' IS NOT NULL)
  SELECT max((s.pods ->> 'percent')::numeric), min((s.pods ->> 'atLeast')::numeric::int), max((s.pods ->> 'windowSeconds')::numeric::int),
    coalesce(bool_and(coalesce(s.pods -> 'disabled' = 'true', false)), false), coalesce(string_agg(s.policy, ', ' ORDER BY s.policy), '')
  FROM s WHERE s.dim = 'cluster' OR NOT EXISTS (SELECT FROM s o WHERE o.dim = 'cluster');
END $$;

-- How these breakers stand: one row for each place, whether or not it ever tripped. most = the start that trips it, of machines in
-- service (looked at only as far as needed); hit = machines counted now, those since `counted_from`. Without p_count the last two are 0.
-- p_more: of a place that so many further starts cannot trip, `most` need only be beyond them: a thousand machines are not counted for one.
CREATE FUNCTION breaker_read(p_dims text[], p_keys int[], p_now timestamptz, p_count boolean, p_more int DEFAULT NULL)
RETURNS TABLE (dim text, key int, name text, state text, allow int, let int, since timestamptz, last_at timestamptz, counted_from timestamptz, why text, percent numeric, cap int, seconds int, off boolean, policy text, most int, hit int)
LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH r AS MATERIALIZED (SELECT * FROM breaker_rules()),
  w AS MATERIALIZED (
    SELECT a.dim, a.key, coalesce(k.state, 'closed') AS state, coalesce(k.allow, 0) AS allow, k.since, k.last_at, coalesce(k.counted_from, '-infinity') AS counted_from, coalesce(k.why, '') AS why,
      CASE WHEN a.dim = 'fleet' THEN r.percent ELSE coalesce(r.percent, 20) END AS percent, coalesce(r.cap, CASE WHEN a.dim IN ('fleet', 'idc') THEN 200 ELSE 50 END) AS cap,
      coalesce(r.seconds, 600) AS seconds, coalesce(r.off, false) AS off, coalesce(r.policy, '') AS policy
    FROM (SELECT DISTINCT u.dim, u.key FROM unnest(p_dims, p_keys) AS u(dim, key)) a
    LEFT JOIN r ON r.dim = a.dim AND r.key = a.key LEFT JOIN LATERAL (SELECT * FROM breaker b WHERE b.dim = a.dim AND b.key = a.key OFFSET 0) k ON true),
  x AS MATERIALIZED (SELECT w.*, greatest(w.counted_from, p_now - make_interval(secs => w.seconds)) AS after FROM w)
  SELECT x.dim, x.key, coalesce((SELECT p.name FROM safety_place p WHERE p.dim = x.dim AND p.key = x.key LIMIT 1), ''), x.state, x.allow,
    (SELECT count(*)::int FROM breaker_trial t WHERE t.dim = x.dim AND t.key = x.key), x.since, x.last_at, x.counted_from, x.why, x.percent, x.cap, x.seconds, x.off, x.policy,
    CASE WHEN x.percent IS NULL THEN x.cap ELSE least(greatest(2, ceil(t.n * x.percent / 100)), x.cap)::int END, h.n
  FROM x CROSS JOIN LATERAL (SELECT sum(q.n)::int AS n FROM (
      SELECT count(DISTINCT s.machine_id) AS n FROM breaker_strike s WHERE p_count AND x.dim = 'cluster' AND s.cluster_id = x.key AND s.at >= x.after
      UNION ALL SELECT count(DISTINCT s.machine_id) FROM breaker_strike s WHERE p_count AND x.dim = 'idc' AND s.idc_id = x.key AND s.at >= x.after
      UNION ALL SELECT count(DISTINCT s.machine_id) FROM breaker_strike s WHERE p_count AND x.dim = 'rack' AND s.rack_id = x.key AND s.at >= x.after
      UNION ALL SELECT count(DISTINCT s.machine_id) FROM breaker_strike s WHERE p_count AND x.dim = 'fleet' AND s.at >= x.after) q) h
  CROSS JOIN LATERAL (SELECT (ceil(least(x.cap, h.n + p_more) * 100 / coalesce(x.percent, 100)) + 1)::bigint AS n) enough
  CROSS JOIN LATERAL (SELECT sum(q.n)::numeric AS n FROM (
      SELECT count(*) AS n FROM (SELECT 1 FROM capacity c WHERE p_count AND x.dim = 'cluster' AND c.in_service AND c.cluster_id = x.key LIMIT enough.n) a
      UNION ALL SELECT count(*) FROM (SELECT 1 FROM capacity c WHERE p_count AND x.dim = 'idc' AND c.in_service AND c.idc_id <> 0 AND c.idc_id = x.key LIMIT enough.n) a
      UNION ALL SELECT count(*) FROM (SELECT 1 FROM capacity c WHERE p_count AND x.dim = 'rack' AND c.in_service AND c.rack_id <> 0 AND c.rack_id = x.key LIMIT enough.n) a
      UNION ALL SELECT count(*) FROM (SELECT 1 FROM capacity c WHERE p_count AND x.dim = 'fleet' AND x.percent IS NOT NULL AND c.in_service LIMIT enough.n) a) q) t;
END $$;

-- The breakers that bind these machines, the widest first: the first that says no is the answer.
CREATE FUNCTION breakers_of(p_ids bigint[], p_now timestamptz, p_count boolean, p_more int DEFAULT NULL)
RETURNS TABLE (code bigint, dim text, key int, name text, state text, room int, allow int, since timestamptz, last_at timestamptz, counted_from timestamptz, why text, percent numeric, cap int, seconds int, most int, hit int)
LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  WITH p AS MATERIALIZED (
    SELECT DISTINCT v.dim, v.key FROM (SELECT DISTINCT c.cluster_id, c.idc_id, c.rack_id FROM capacity c WHERE c.machine_id = ANY (p_ids)) a,
      LATERAL (VALUES ('fleet', 0), ('cluster', a.cluster_id), ('idc', a.idc_id::int), ('rack', a.rack_id)) AS v(dim, key)
    WHERE v.dim IN ('fleet', 'cluster') OR v.key <> 0)
  SELECT breaker_code(b.dim, b.key), b.dim, b.key, b.name, b.state, greatest(0, b.allow - b.let), b.allow, b.since, b.last_at, b.counted_from, b.why, b.percent, b.cap, b.seconds, b.most, b.hit
  FROM breaker_read((SELECT array_agg(p.dim) FROM p), (SELECT array_agg(p.key) FROM p), p_now, p_count, p_more) b WHERE NOT b.off ORDER BY 1;
END $$;

-- One number for a place, so that a batch finds its breakers in an array; also their order: fleet, cluster, idc, rack.
CREATE FUNCTION breaker_code(dim text, key int) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT (CASE dim WHEN 'fleet' THEN 0 WHEN 'cluster' THEN 1 WHEN 'idc' THEN 2 ELSE 3 END::bigint << 32) + key
$$;

CREATE FUNCTION breaker_place(dim text, name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN dim = 'fleet' THEN 'the whole fleet' WHEN name = '' THEN 'machines without ' || dim ELSE dim || ' ' || name END
$$;

CREATE FUNCTION breaker_limit(hit int, percent numeric, cap int, seconds int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT format('%s machine%s taken by faults, or failed a change, within %s; the limit is %s.', hit, CASE WHEN hit = 1 THEN ' was' ELSE 's were' END,
    CASE WHEN seconds % 60 = 0 THEN format('%s minute%s', seconds / 60, CASE WHEN seconds = 60 THEN '' ELSE 's' END) ELSE seconds || ' s' END,
    CASE WHEN percent IS NULL THEN cap || ' machines' ELSE format('%s %% of those in service, at least 2 and at most %s', trim_scale(percent), cap) END)
$$;

-- The sentence of a refusal; moments only, no counts that move, so that the row of a waiting machine stays as it is.
CREATE FUNCTION breaker_sentence(dim text, name text, state text, since timestamptz, last_at timestamptz, seconds int, why text, allow int) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN state = 'half-open' THEN
      format('The breaker of %s is half-open: it lets %s through at a time until they end well, then twice as many. This waits for its turn.', breaker_place(dim, name), allow)
    ELSE format('The breaker of %s is open since %s UTC: %s Nothing that takes a machine away starts there. %s', breaker_place(dim, name), to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), why,
      CASE WHEN dim = 'fleet' THEN 'Only people free it: fleetctl breaker reset fleet.'
        ELSE format('It lets one through after %s UTC if nothing else fails; sooner by fleetctl breaker reset.', to_char((last_at + make_interval(secs => seconds)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')) END) END
$$;

CREATE FUNCTION breaker_tell(p_dim text, p_key int, p_what text, p_severity int, p_message text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE named text := coalesce((SELECT p.name FROM safety_place p WHERE p.dim = p_dim AND p.key = p_key LIMIT 1), '');
BEGIN
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  VALUES (fleet_pos(4), 0, 0, CASE WHEN p_dim = 'cluster' THEN p_key ELSE 0 END, 11, p_severity, 'dev.fleet.breaker.' || p_what, '/safety',
    jsonb_build_object('reason', 'Breaker' || initcap(p_what), 'message', p_message, 'name', p_dim || CASE WHEN p_dim = 'fleet' THEN '' ELSE '/' || named END, 'dim', p_dim, 'key', p_key));
END $$;

-- Open it. The third cluster whose breaker is open opens the fleet's.
CREATE FUNCTION breaker_open(p_dim text, p_key int, p_why text, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE named text := coalesce((SELECT p.name FROM safety_place p WHERE p.dim = p_dim AND p.key = p_key LIMIT 1), ''); was text; many int;
BEGIN
  SELECT state INTO was FROM breaker WHERE dim = p_dim AND key = p_key;
  IF was = 'open' THEN
    UPDATE breaker SET last_at = p_now WHERE dim = p_dim AND key = p_key;
    RETURN;
  END IF;
  DELETE FROM breaker_trial WHERE dim = p_dim AND key = p_key;
  INSERT INTO breaker AS b (dim, key, state, allow, since, last_at, why) VALUES (p_dim, p_key, 'open', 0, p_now, p_now, p_why)
  ON CONFLICT (dim, key) DO UPDATE SET state = 'open', allow = 0, since = p_now, last_at = p_now, why = p_why, asked_by = '', asked_at = NULL;
  PERFORM breaker_tell(p_dim, p_key, 'opened', 2, format('The breaker of %s opened: %s', breaker_place(p_dim, named), p_why));
  SELECT count(*) INTO many FROM breaker WHERE dim = 'cluster' AND state = 'open';
  IF p_dim = 'cluster' AND many >= 3 AND NOT EXISTS (SELECT FROM breaker_rules() r WHERE r.dim = 'fleet' AND r.off) THEN
    PERFORM breaker_open('fleet', 0, format('The breakers of %s clusters are open.', many), p_now);
  END IF;
END $$;

CREATE FUNCTION breaker_half(p_dim text, p_key int, p_now timestamptz, p_by text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE named text := coalesce((SELECT p.name FROM safety_place p WHERE p.dim = p_dim AND p.key = p_key LIMIT 1), '');
BEGIN
  DELETE FROM breaker_trial WHERE dim = p_dim AND key = p_key;
  UPDATE breaker SET state = 'half-open', allow = 1, since = p_now, counted_from = p_now, asked_by = '', asked_at = NULL WHERE dim = p_dim AND key = p_key;
  PERFORM breaker_tell(p_dim, p_key, 'half-opened', 1, format('The breaker of %s lets one through at a time%s.', breaker_place(p_dim, named), CASE WHEN p_by = '' THEN '' ELSE ', reset by ' || p_by END));
END $$;

CREATE FUNCTION breaker_close(p_dim text, p_key int, p_now timestamptz, p_by text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE named text := coalesce((SELECT p.name FROM safety_place p WHERE p.dim = p_dim AND p.key = p_key LIMIT 1), '');
BEGIN
  DELETE FROM breaker_trial WHERE dim = p_dim AND key = p_key;
  UPDATE breaker SET state = 'closed', allow = 0, since = p_now, why = '', asked_by = '', asked_at = NULL WHERE dim = p_dim AND key = p_key;
  PERFORM breaker_tell(p_dim, p_key, 'closed', 0, format('The breaker of %s closed%s.', breaker_place(p_dim, named), CASE WHEN p_by = '' THEN ': what it let through ended well' ELSE ' by ' || p_by END));
END $$;

-- What time and ended permits did to breakers that are not closed. A trial is good once its permit was released and the machine is
-- well, failed when a minute after its right ended the machine is not. Cool-down = the window, from the last strike; the fleet's waits for people.
CREATE FUNCTION breaker_turn(p_now timestamptz) RETURNS int LANGUAGE plpgsql AS $$
DECLARE b record; moved int := 0; good int; bad text;
BEGIN
  FOR b IN SELECT r.* FROM (SELECT array_agg(k.dim) AS dims, array_agg(k.key) AS keys FROM breaker k WHERE k.state <> 'closed') a, LATERAL breaker_read(a.dims, a.keys, p_now, true) r
    WHERE a.dims IS NOT NULL AND NOT r.off ORDER BY breaker_code(r.dim, r.key) LOOP
    IF b.state = 'open' THEN
      IF b.dim <> 'fleet' AND b.last_at + make_interval(secs => b.seconds) <= p_now THEN
        PERFORM breaker_half(b.dim, b.key, p_now, ''); moved := moved + 1;
      END IF;
      CONTINUE;
    END IF;
    SELECT min(coalesce(g.name, 'machine ' || p.machine_id)) INTO bad
    FROM breaker_trial t CROSS JOIN LATERAL (SELECT * FROM permit WHERE id = t.permit_id OFFSET 0) p CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = p.machine_id OFFSET 0) c
    LEFT JOIN LATERAL (SELECT k.name FROM safety_target_by_key k WHERE k.machine_id = p.machine_id OFFSET 0) g ON true
    WHERE t.dim = b.dim AND t.key = b.key AND c.down AND least(p.expires_at, p.released_at) <= p_now - interval '1 minute';
    IF bad IS NOT NULL THEN
      PERFORM breaker_open(b.dim, b.key, format('%s was let through and is not well again.', bad), p_now); moved := moved + 1;
      CONTINUE;
    END IF;
    -- a machine that is gone says nothing: its place is free again
    DELETE FROM breaker_trial t WHERE t.dim = b.dim AND t.key = b.key AND NOT EXISTS (SELECT FROM permit p JOIN capacity c ON c.machine_id = p.machine_id WHERE p.id = t.permit_id);
    SELECT count(*) INTO good FROM breaker_trial t CROSS JOIN LATERAL (SELECT * FROM permit WHERE id = t.permit_id OFFSET 0) p CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = p.machine_id OFFSET 0) c
    WHERE t.dim = b.dim AND t.key = b.key AND p.released_at IS NOT NULL AND NOT c.down;
    IF good >= b.allow AND b.allow * 2 >= b.most THEN
      PERFORM breaker_close(b.dim, b.key, p_now, ''); moved := moved + 1;
    ELSIF good >= b.allow THEN
      DELETE FROM breaker_trial t WHERE t.dim = b.dim AND t.key = b.key;
      UPDATE breaker k SET allow = k.allow * 2 WHERE k.dim = b.dim AND k.key = b.key; moved := moved + 1;
    END IF;
  END LOOP;
  RETURN moved;
END $$;

-- The same when nobody asks for permits; how many moved.
CREATE FUNCTION breaker_tick() RETURNS int LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM breaker WHERE state <> 'closed') THEN RETURN 0; END IF;
  PERFORM 1 FROM ledger WHERE id = 1 FOR UPDATE;
  RETURN breaker_turn(clock_timestamp());
END $$;

-- Machines that failed the post-check of a change: they count, they open what is half-open, and they begin a cool-down anew.
CREATE FUNCTION breaker_failed(p_ids bigint[], p_whys text[]) RETURNS int LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE moment timestamptz; made int; b record; said text; again boolean;
BEGIN
  PERFORM 1 FROM ledger WHERE id = 1 FOR UPDATE;
  moment := clock_timestamp();
  INSERT INTO breaker_strike (machine_id, cluster_id, idc_id, rack_id, at, failed, why)
  SELECT c.machine_id, c.cluster_id, c.idc_id, c.rack_id, moment, true, left(a.why, 1000)
  FROM (SELECT DISTINCT ON (u.id) u.id, u.why FROM unnest(p_ids, p_whys) AS u(id, why) ORDER BY u.id) a CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c
  WHERE c.in_service;  -- one that is not has no capacity to lose: what joins may fail as it likes
  GET DIAGNOSTICS made = ROW_COUNT;
  PERFORM breaker_turn(moment);
  FOR b IN SELECT * FROM breakers_of(p_ids, moment, true) LOOP
    -- In a whole fleet something fails at any time: only what was let through closes its door again, which people must open.
    again := b.state = 'half-open' AND (b.dim <> 'fleet' OR EXISTS (SELECT FROM breaker_trial t JOIN permit p ON p.id = t.permit_id WHERE t.dim = 'fleet' AND p.machine_id = ANY (p_ids)));
    said := CASE WHEN again THEN format('A machine failed while it was half-open: %s', p_whys[1]) ELSE breaker_limit(b.hit, b.percent, b.cap, b.seconds) END;
    IF again OR b.state = 'open' OR b.hit >= b.most THEN PERFORM breaker_open(b.dim, b.key, said, moment); END IF;
  END LOOP;
  RETURN made;
END $$;

-- Opened from outside, by what a cluster itself tells (pods that cannot be created any more).
CREATE FUNCTION breaker_trip(p_dim text, p_key int, p_why text) RETURNS void LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
BEGIN
  PERFORM 1 FROM ledger WHERE id = 1 FOR UPDATE;
  IF NOT EXISTS (SELECT FROM breaker_rules() r WHERE r.dim = p_dim AND r.key = p_key AND r.off) THEN PERFORM breaker_open(p_dim, p_key, p_why, clock_timestamp()); END IF;
END $$;

-- People's word: from open to half-open, from half-open to closed. p_two = a second person must say the same within an hour, and the
-- first one's word is kept until then. Answers the state after, or 'asked', or 'same' when the first person says it again.
CREATE FUNCTION breaker_reset(p_dim text, p_key int, p_by text, p_two boolean) RETURNS text LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE moment timestamptz; b record;
BEGIN
  PERFORM 1 FROM ledger WHERE id = 1 FOR UPDATE;
  moment := clock_timestamp();
  PERFORM breaker_turn(moment);
  SELECT * INTO b FROM breaker WHERE dim = p_dim AND key = p_key;
  IF b.state IS NULL OR b.state = 'closed' THEN RETURN 'closed already'; END IF;
  IF p_two AND (b.asked_at IS NULL OR b.asked_at < moment - interval '1 hour') THEN
    UPDATE breaker SET asked_by = p_by, asked_at = moment WHERE dim = p_dim AND key = p_key;
    RETURN 'asked';
  END IF;
  IF p_two AND b.asked_by = p_by THEN RETURN 'same'; END IF;
  IF b.state = 'open' THEN PERFORM breaker_half(p_dim, p_key, moment, p_by); RETURN 'half-open'; END IF;
  UPDATE breaker SET counted_from = moment WHERE dim = p_dim AND key = p_key;
  PERFORM breaker_close(p_dim, p_key, moment, p_by);
  RETURN 'closed';
END $$;
