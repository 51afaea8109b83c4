-- name: batch_index
-- Is there an index by which rows are found in the order of these columns ($2) of the table ($1)? A B-tree that begins with
-- them, valid and over every row, all ascending or all descending (indoption 0 or 3: the order in which NULLs would stand
-- must be that of ORDER BY too), with each type's own operators and each column's own collation.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = c.relam
     WHERE i.indrelid = $1::oid AND m.amname = 'btree' AND i.indisvalid AND i.indisready AND i.indpred IS NULL
       AND i.indnkeyatts >= cardinality($2::text[])
       AND (SELECT bool_and(a.attname = w.name AND o.opcdefault AND i.indcollation[w.place - 1] = a.attcollation)
              FROM unnest($2::text[]) WITH ORDINALITY w(name, place)
              LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[w.place - 1]
              LEFT JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[w.place - 1])
       AND (SELECT count(DISTINCT i.indoption[p]) = 1 AND min(i.indoption[p]) IN (0, 3)
              FROM generate_series(0, cardinality($2::text[]) - 1) p))

-- name: batch_columns
-- Of the columns ($2) of the table ($1): whether each is there, NOT NULL, and of a built-in type.
SELECT w.name, a.attname IS NOT NULL, coalesce(a.attnotnull, false),
       coalesce(t.typnamespace = 'pg_catalog'::regnamespace OR t.typtype = 'e', false)
  FROM unnest($2::text[]) WITH ORDINALITY w(name, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = $1::oid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 ORDER BY w.place

-- name: batch_table
-- Its kind, whether rows of it can be in other tables, and the planner's estimate of its rows.
SELECT c.relkind::text, c.relhassubclass, greatest(c.reltuples, 0)::bigint
  FROM pg_catalog.pg_class c WHERE c.oid = $1::oid

-- name: may_arm
-- The login role, the owner of table $1, and whether the one may put triggers on it and take them away again (DROP TRIGGER:
-- the owner alone).
SELECT session_user::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
       pg_catalog.pg_has_role(session_user, c.relowner, 'USAGE')
  FROM pg_catalog.pg_class c WHERE c.oid = $1::oid

-- name: foreseen
-- Tables that hold rows and that a delete ($2) from table $1 reaches by its foreign keys, or an update of these columns ($3).
-- Each partition has a constraint of its own (pg_constraint.conparentid).
WITH RECURSIVE gone (oid) AS (
    SELECT $1::oid WHERE $2
    UNION
    SELECT f.conrelid FROM gone g JOIN pg_catalog.pg_constraint f ON f.confrelid = g.oid
     WHERE f.contype = 'f' AND f.confdeltype = 'c'
)
SELECT c.oid::text FROM pg_catalog.pg_class c
 WHERE c.relkind = 'r' AND EXISTS (
       SELECT FROM pg_catalog.pg_constraint f
        WHERE f.contype = 'f' AND f.conrelid = c.oid
          AND (f.confdeltype IN ('c', 'n', 'd') AND f.confrelid IN (SELECT g.oid FROM gone g)
               OR f.confupdtype IN ('c', 'n', 'd') AND f.confrelid = $1::oid
                  AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
                               WHERE a.attrelid = f.confrelid AND a.attnum = ANY (f.confkey) AND a.attname = ANY ($3))))
 ORDER BY c.oid

-- name: acts_on_itself
-- Whether a foreign key of table $1 to itself changes rows when others are deleted, and whether one does when they are updated.
SELECT coalesce(bool_or(f.confdeltype IN ('c', 'n', 'd')), false), coalesce(bool_or(f.confupdtype IN ('c', 'n', 'd')), false)
  FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.conrelid = $1::oid AND f.confrelid = $1::oid

-- name: relation_kind
SELECT c.relkind::text FROM pg_catalog.pg_class c WHERE c.oid = $1::oid

-- name: waiting_for_us
-- Sessions that wait for a lock of the backends $1. From pg_locks, which everybody may see.
SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks l
 WHERE NOT l.granted AND l.pid <> ALL ($1::int[]) AND pg_catalog.pg_blocking_pids(l.pid) && $1::int[]

-- name: oldest_transaction
-- Seconds since the oldest open transaction of another session of this database began, and whether this role may see that
-- of others (manual 28.2.3: only with pg_read_all_stats).
SELECT coalesce(extract(epoch FROM max(pg_catalog.clock_timestamp() - a.xact_start)), 0)::float8,
       pg_catalog.pg_has_role(session_user, 'pg_read_all_stats', 'MEMBER')
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> ALL ($1::int[]) AND a.backend_type = 'client backend'

-- name: replica_lag
-- (name, whether this role may not see how far it is, whether it is a physical one, its lag in seconds) of each replica.
-- One that has replayed all shows the last lag for a while, then NULL (manual 28.2.4): where it stands decides. One that
-- says nothing any more, though asked every 10 s at the most (wal_receiver_status_interval), lags since its last word.
-- Without pg_monitor the columns are NULL. Base backups come and go, and so do those who subscribe to a publication.
SELECT r.application_name, r.state IS NULL,
       NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical'),
       CASE WHEN r.replay_lsn >= pg_catalog.pg_current_wal_flush_lsn() THEN 0
            ELSE greatest(extract(epoch FROM r.replay_lag),
                 CASE WHEN pg_catalog.clock_timestamp() - r.reply_time > interval '15 seconds'
                      THEN extract(epoch FROM pg_catalog.clock_timestamp() - r.reply_time) END, 0) END::float8
  FROM pg_catalog.pg_stat_replication r
 WHERE r.state IS DISTINCT FROM 'backup' AND r.application_name IS DISTINCT FROM 'pg_basebackup'

-- name: toasted_bytes
-- Bytes of the table's values that are kept out of line; 0 where it has no such values.
SELECT CASE WHEN c.reltoastrelid <> 0 THEN pg_catalog.pg_relation_size(c.reltoastrelid) ELSE 0 END
  FROM pg_catalog.pg_class c WHERE c.oid = $1::oid

-- name: statistics
-- (never analysed, rows written since, rows at that time, whether it has grown to more than twice its pages, whether this
-- role may ANALYZE it). Tables of up to 100 pages do not matter: (false, 0, …). Manual: ANALYZE, "Notes"; MAINTAIN is new in 17.
SELECT c.reltuples < 0 AND size.pages > 100, CASE WHEN size.pages > 100 THEN coalesce(s.n_mod_since_analyze, 0) ELSE 0 END,
       greatest(c.reltuples, 0)::bigint, size.pages > 2 * c.relpages + 1000,
       pg_catalog.pg_has_role(c.relowner, 'USAGE')
         OR pg_catalog.pg_has_role((SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = current_database()), 'USAGE')
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
  CROSS JOIN LATERAL (SELECT pg_catalog.pg_relation_size(c.oid)
                             / current_setting('block_size')::bigint AS pages) size
 WHERE c.oid = $1::oid

-- name: log_end
-- Bytes of write-ahead log that were ever written, by all sessions.
SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint

-- name: archive_backlog
-- Bytes of complete segments that wait for the archiver; 0 where nothing is archived. Needs pg_monitor (manual 9.28.9).
SELECT CASE WHEN current_setting('archive_mode') = 'off' THEN 0
            ELSE (SELECT count(*) FROM pg_catalog.pg_ls_archive_statusdir() f WHERE f.name LIKE '%.ready')
                 * pg_catalog.pg_size_bytes(current_setting('wal_segment_size')) END
