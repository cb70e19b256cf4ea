-- What people must be told now. Names of tables of the apps above are read here as everywhere in the ledger: their views and the phases of machines.
CREATE FUNCTION notice_now() RETURNS TABLE (said text, reason text, severity int, subject text, message text, cluster text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN QUERY
  SELECT 'breaker/' || b.dim || '/' || b.key, CASE WHEN b.state = 'open' THEN 'BreakerOpen' ELSE 'BreakerHalfOpen' END, CASE WHEN b.state = 'open' THEN 2 ELSE 1 END,
    format('The breaker of %s is %s', breaker_place(b.dim, coalesce(p.name, '')), b.state), b.why || CASE WHEN b.dim = 'fleet' AND b.state = 'open' THEN ' Only people free it: fleetctl breaker reset fleet.' ELSE '' END,
    CASE WHEN b.dim = 'cluster' THEN coalesce(p.name, '') ELSE '' END
  FROM breaker b LEFT JOIN safety_place p ON p.dim = b.dim AND p.key = b.key WHERE b.state <> 'closed' AND NOT EXISTS (SELECT FROM breaker_rules() r WHERE r.dim = b.dim AND r.key = b.key AND r.off)
  UNION ALL
  SELECT 'hold/' || h.uid, 'HoldOverdue', 1, format('Hold %s is overdue', h.name), format('It ended at %s and holds nothing any more: %s asked for it (%s). Remove it, or make another.', h.spec ->> 'until', coalesce(h.spec ->> 'owner', 'somebody'), h.spec ->> 'reason'),
    coalesce(h.spec #>> '{target,cluster}', '')
  FROM safety_hold h WHERE h.deleted_at IS NULL AND h.status -> 'overdue' = 'true'
  UNION ALL
  SELECT 'person/' || f.cluster_id, 'NeedsAPerson', 1, format('%s machine%s of %s need%s a person', f.n, CASE WHEN f.n = 1 THEN '' ELSE 's' END, breaker_place('cluster', coalesce(p.name, '')), CASE WHEN f.n = 1 THEN 's' ELSE '' END),
    f.names || CASE WHEN f.n > 5 THEN format(' and %s more', f.n - 5) ELSE '' END || '. fleetctl why machine/NAME says what stands in the way.', coalesce(p.name, '')
  FROM (SELECT s.cluster_id, count(*) AS n, array_to_string((array_agg(s.name ORDER BY s.name))[1:5], ', ') AS names FROM (
      SELECT m.cluster_id, m.name FROM machine_state m WHERE m.phase = 'Failed' AND m.phase <> 'Running'
      UNION SELECT m.cluster_id, m.name FROM machine_fault x CROSS JOIN LATERAL (SELECT * FROM machine_state WHERE id = x.machine_id OFFSET 0) m WHERE x.phase = 'NeedsPerson') s GROUP BY 1) f
  LEFT JOIN safety_place p ON p.dim = 'cluster' AND p.key = f.cluster_id
  UNION ALL
  SELECT 'batch/' || b.uid, w.reason, w.severity, format('%s of %s machine%s %s', b.spec ->> 'verb', b.status ->> 'count', CASE WHEN b.status ->> 'count' = '1' THEN '' ELSE 's' END, w.how),
    CASE WHEN w.severity = 1 THEN format('%s asks: %s. Another approver looks at operationbatch/%s.', b.status ->> 'author', rtrim(b.spec ->> 'reason', '. '), b.name) ELSE format('operationbatch/%s: %s', b.name, b.status ->> 'message') END,
    coalesce(b.spec ->> 'clusterName', '')
  FROM machines_operationbatch b JOIN (VALUES ('AwaitingApproval', 'BatchAwaitsApproval', 1, 'waits for approval'), ('Stalled', 'BatchStopped', 2, 'has stopped')) AS w(phase, reason, severity, how) ON w.phase = b.status ->> 'phase'
  WHERE NOT b.status ? 'endTime'
  UNION ALL
  SELECT 'stopped', 'Stopped', 2, 'The kill switch is on', format('%s: %s. Nothing starts anywhere.', coalesce(l.stopped_by, 'somebody'), coalesce(l.stopped_why, '')), '' FROM ledger l WHERE l.stopped;
END $$;

-- What began, changed or is over since the last turn; what begins again is new, and nobody has taken it.
CREATE FUNCTION notice_turn() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO notice AS n (said, reason, severity, subject, message, cluster) SELECT * FROM notice_now()
  ON CONFLICT (said) DO UPDATE SET reason = excluded.reason, severity = excluded.severity, subject = excluded.subject, message = excluded.message, cluster = excluded.cluster, cleared_at = NULL,
    since = CASE WHEN n.cleared_at IS NULL THEN n.since ELSE now() END, acked_by = CASE WHEN n.cleared_at IS NULL THEN n.acked_by ELSE '' END, acked_at = CASE WHEN n.cleared_at IS NULL THEN n.acked_at END
  WHERE n.cleared_at IS NOT NULL OR (n.reason, n.severity, n.subject, n.message, n.cluster) IS DISTINCT FROM (excluded.reason, excluded.severity, excluded.subject, excluded.message, excluded.cluster);
  UPDATE notice n SET cleared_at = now() WHERE n.cleared_at IS NULL AND n.said NOT IN (SELECT w.said FROM notice_now() w);
  DELETE FROM notice n WHERE n.cleared_at < now() - interval '7 days';
END $$;
