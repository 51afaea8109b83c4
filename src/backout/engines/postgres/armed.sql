-- Queries about tables that are armed with triggers instead of being scanned; see armed.py.

-- name: reach
-- The tables that hold rows and that a write to $1 (quoted names) can reach by what the catalogue knows: partitions and
-- inheritance children, foreign keys that act, rules and views. With each: the bytes of its rows (without indexes and
-- TOAST, which a scan of all rows does not read), those of its whole family, and whether the login role may put triggers
-- on it and take them away again (DROP TRIGGER: the owner alone). `top` is where its family begins.
WITH RECURSIVE named (oid) AS (
    SELECT c.oid FROM pg_catalog.unnest($1::text[]) AS n(name) JOIN pg_catalog.pg_class c
        ON c.oid = pg_catalog.to_regclass(n.name)
), reach (oid, top) AS (
    SELECT oid, oid FROM named
    UNION
    SELECT next.oid, next.top FROM reach r CROSS JOIN LATERAL (
        SELECT i.inhrelid, r.top FROM pg_catalog.pg_inherits i WHERE i.inhparent = r.oid
        UNION ALL
        SELECT f.conrelid, f.conrelid FROM pg_catalog.pg_constraint f
         WHERE f.contype = 'f' AND f.confrelid = r.oid
           AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
        UNION ALL
        SELECT d.refobjid, d.refobjid FROM pg_catalog.pg_rewrite w
          JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
           AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.oid
         WHERE w.ev_class = r.oid
    ) AS next (oid, top)
), sized AS (
    SELECT c.oid, r.top, n.nspname, c.relname, pg_catalog.pg_relation_size(c.oid) AS bytes,
           pg_catalog.pg_has_role(session_user, c.relowner, 'USAGE') AS ours,
           pg_catalog.pg_get_userbyid(c.relowner)::text AS owner
      FROM reach r JOIN pg_catalog.pg_class c ON c.oid = r.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'backout', $2)
), families AS (
    SELECT s.*, sum(s.bytes) OVER (PARTITION BY s.top) AS family FROM sized s
)
SELECT oid::text, nspname, relname, max(bytes)::bigint, max(family)::bigint, ours, owner FROM families
 GROUP BY oid, nspname, relname, ours, owner ORDER BY nspname, relname

-- name: family_bytes
-- Of a table: the bytes of its rows and of all partitions beside it, and the name under which they can all be armed.
SELECT n.nspname, r.relname, CASE WHEN c.relispartition
         THEN (SELECT sum(pg_catalog.pg_relation_size(t.relid)) FROM pg_catalog.pg_partition_tree(r.oid) t WHERE t.isleaf)
         ELSE pg_catalog.pg_relation_size(c.oid) END::bigint
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_class r ON r.oid = CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid) ELSE c.oid END
  JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
 WHERE c.oid = $1::oid

-- name: vacuum_at
-- Does anybody hold the lock on table $1 that VACUUM takes? And how long one must wait until autovacuum gives way.
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.relation = pg_catalog.to_regclass($1) AND l.granted
                  AND l.mode = 'ShareUpdateExclusiveLock'
                  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())),
       (SELECT (s.setting::int + 300)::text || 'ms' FROM pg_catalog.pg_settings s WHERE s.name = 'deadlock_timeout')

-- name: still_armed
-- Which of these functions ($1) are still fired by an enabled trigger, in every replication role, and on which table.
SELECT p.proname::text, g.tgrelid::text FROM pg_catalog.pg_trigger g
  JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'backout' AND p.proname = ANY ($1) AND g.tgenabled = 'A'

-- name: armed_objects
-- Every function of ours whose name begins with $1, its trigger's table, its log, and whether what it was made for is over:
-- a transaction holds a lock on its own id until it ends (manual 13.3, 54.12 pg_locks, "transactionid"); of a run in batches
-- somebody holds the advisory lock ($2, the run's number). Its log is a temporary table of its session, and goes with it.
SELECT p.proname::text, t.nspname::text, t.relname::text, g.tgname::text, l.nspname::text, l.relname::text,
       CASE WHEN p.proname LIKE 'armed\_run\_%'
            THEN NOT EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'advisory' AND k.granted
                                AND k.classid = $2::bigint::oid AND k.objsubid = 2
                                AND k.objid = pg_catalog.split_part(p.proname, '_', 3)::bigint::oid
                                AND k.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                                   WHERE d.datname = pg_catalog.current_database()))
            ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'transactionid' AND k.granted
                                AND k.mode = 'ExclusiveLock' AND k.transactionid::text::bigint
                                    = pg_catalog.split_part(p.proname, '_', 2)::bigint % 4294967296) END
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN (pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
             JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
             CROSS JOIN LATERAL (SELECT cn.nspname, c.relname) t) ON g.tgfoid = p.oid
  LEFT JOIN (pg_catalog.pg_class o JOIN pg_catalog.pg_namespace s ON s.oid = o.relnamespace
             CROSS JOIN LATERAL (SELECT s.nspname, o.relname) l)
         ON o.relname = p.proname AND o.relkind = 'r' AND o.relpersistence <> 't' AND o.relowner = p.proowner
 WHERE n.nspname = 'backout' AND p.proname >= 'armed_' AND p.proname < 'armed`' -- by the index of names
   AND p.proname ~ '^armed_([0-9]{1,19}|run_[0-9]{1,10}_[0-9]{1,10})_[0-9]{1,10}$'
   AND pg_catalog.starts_with(p.proname, $1)
 ORDER BY 1
