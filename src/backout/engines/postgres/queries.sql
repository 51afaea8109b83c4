-- The queries of the PostgreSQL engine. Parameters are $1, $2 …; every name is qualified, since search_path may be set
-- to anything by the change.

-- name: facts
SELECT current_setting('server_version'), current_setting('server_version_num')::int, current_database(),
       session_user::text, pg_catalog.pg_is_in_recovery(),
       (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user),
       (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() c)
         || '/' || (SELECT d.oid::text FROM pg_catalog.pg_database d WHERE d.datname = current_database()),
       current_setting('default_transaction_read_only')::boolean, current_setting('track_counts')::boolean,
       pg_catalog.inet_server_addr() IS NULL OR pg_catalog.inet_server_addr() << inet '127.0.0.0/8'
         OR pg_catalog.inet_server_addr() = inet '::1'

-- name: role_is_usable
-- Does the role exist, may the login role become it, does it inherit its rights, is it a superuser?
SELECT r.rolsuper, pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER'),
       pg_catalog.pg_has_role(session_user, r.oid, 'USAGE')
  FROM pg_catalog.pg_roles r WHERE r.rolname = $1

-- name: begin_facts
-- xid8 of the transaction, the next multixact (a mark: ours come after it), and the settings a proof relies on.
SELECT pg_catalog.pg_current_xact_id()::text::bigint,
       pg_catalog.mxid_age('1'::xid)::bigint + 1,
       current_setting('track_counts')::boolean, current_setting('session_replication_role')

-- name: counts
-- The server's own count of row writes in this transaction (manual 28.2.2, pg_stat_xact_all_tables), of every relation
-- but TOAST and this session's temporary tables. Earlier transactions of the session may still be in it: use as a delta.
-- What the view asks, without its sums over indexes, which cost more than the rest (its text is the same in 15, 16 and 18).
SELECT c.oid::text, n.nspname, c.relname, c.relkind::text, w.inserted, w.updated, w.deleted
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid), pg_catalog.pg_stat_get_xact_tuples_updated(c.oid),
              pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)) w (inserted, updated, deleted)
 WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND w.inserted + w.updated + w.deleted > 0

-- name: sequences
-- Every permanent sequence that this role may read, with its position and which way it goes (0: round and round). CASE, since the server is free to ask the functions
-- of relations that are no sequences first, and they raise then. `last_value` is null before the first nextval.
SELECT c.oid::text, n.nspname || '.' || c.relname,
       CASE WHEN c.relkind = 'S' THEN pg_catalog.pg_sequence_last_value(c.oid) END,
       CASE WHEN s.seqcycle THEN 0 ELSE sign(s.seqincrement)::int END
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'backout'
   AND CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'USAGE, SELECT') END

-- name: locks
-- What this backend holds on permanent relations outside of the system catalogues.
SELECT c.oid::text, n.nspname, c.relname, c.relkind::text, l.mode
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
   AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
 ORDER BY 2, 3, 5

-- name: table
-- One table: columns (a type outside of pg_catalog is kept as text, so that DROP TYPE hurts no rescue table), the key
-- (primary key, else the smallest unique index over NOT NULL columns that is complete, plain, valid and immediate; not
-- over generated columns, which cannot be written and are kept in no image), and
-- the application's enabled triggers. A type's name does not depend on search_path, since it is compared with later.
SELECT n.nspname, c.relname, c.oid::text, c.relkind::text, c.relispartition,
       (SELECT jsonb_agg(jsonb_build_object(
                 'name', a.attname, 'type', CASE WHEN tn.nspname = 'pg_catalog'
                   THEN pg_catalog.format_type(a.atttypid, a.atttypmod)
                   ELSE (SELECT pg_catalog.format('%I.%I', o.nspname, t.typname) FROM pg_catalog.pg_namespace o
                          WHERE o.oid = t.typnamespace) END, 'position', a.attnum,
                 'generated', a.attgenerated <> '', 'identity_always', a.attidentity = 'a',
                 'stored_as_text', tn.nspname <> 'pg_catalog') ORDER BY a.attnum)
          FROM pg_catalog.pg_attribute a
          JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
          JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN t.typelem ELSE t.oid END
          JOIN pg_catalog.pg_namespace tn ON tn.oid = e.typnamespace
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT array_agg(a.attname::text ORDER BY k.place)
          FROM (SELECT i.* FROM pg_catalog.pg_index i
                 WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                   AND i.indpred IS NULL AND i.indexprs IS NULL
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                    WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
                                      AND (NOT a.attnotnull OR a.attgenerated <> ''))
                 ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1) i,
               LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, place)
          JOIN pg_catalog.pg_attribute a ON a.attnum = k.attnum
         WHERE a.attrelid = c.oid),
       (SELECT array_agg(g.tgname::text ORDER BY g.tgname) FROM pg_catalog.pg_trigger g
         WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace o ON o.oid = p.pronamespace
                            WHERE p.oid = g.tgfoid AND o.nspname = 'backout'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = $1::oid

-- name: relation_named
-- The oid that a name in a statement means under the present search_path; null where there is none.
SELECT pg_catalog.to_regclass($1)::oid::text

-- name: narrowing
-- May rows of this table have changed in columns that no SET list names? Row-level BEFORE triggers (tgtype bits 1 and 2)
-- and rules can do that; children and partitions share a command tag.
SELECT c.relkind = 'r' AND NOT c.relispartition AND NOT c.relhassubclass
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                    WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 3 = 3)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid)
  FROM pg_catalog.pg_class c WHERE c.oid = $1::oid

-- name: unique_columns
-- (name, may be null, type, length) of the columns that unique indexes and exclusion constraints of a table are about, but
-- for those in a foreign key. An expression's columns are those that the index depends on (pg_depend, refobjsubid).
SELECT a.attname, NOT a.attnotnull AND NOT bool_or(i.indnullsnotdistinct), t.typname,
       CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
   AND (a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
        OR i.indexprs IS NOT NULL AND EXISTS (
             SELECT FROM pg_catalog.pg_depend d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE i.indrelid = $1::oid AND (i.indisunique OR i.indisexclusion) AND i.indisvalid
   AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_constraint f
          WHERE f.contype = 'f' AND (f.conrelid = i.indrelid AND a.attnum = ANY (f.conkey)
                                     OR f.confrelid = i.indrelid AND a.attnum = ANY (f.confkey)))
 GROUP BY a.attnum, a.attname, a.attnotnull, t.typname, a.atttypmod
 ORDER BY a.attnum

-- name: foreign_keys
-- Foreign keys in which any of the tables ($1) is on either side; one row a constraint. The server keeps a constraint of
-- its own for each partition on either side (conparentid): the names are those of the topmost one, since a row may be in
-- any partition; the oids are those of the partition. Last: every table in which rows of the child can be.
WITH RECURSIVE upward AS (
    SELECT f.oid AS origin, f.oid, f.conparentid FROM pg_catalog.pg_constraint f
     WHERE f.contype = 'f' AND (f.conrelid = ANY ($1::oid[]) OR f.confrelid = ANY ($1::oid[]))
    UNION ALL
    SELECT u.origin, p.oid, p.conparentid FROM upward u JOIN pg_catalog.pg_constraint p ON p.oid = u.conparentid
)
SELECT f.oid::text, f.conname, f.conrelid::text, cn.nspname, cc.relname, cc.relkind = 'p',
       f.confrelid::text, pn.nspname, pc.relname, pc.relkind = 'p',
       (SELECT array_agg(a.attname::text ORDER BY k.o) FROM unnest(f.conkey) WITH ORDINALITY k(n, o)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.n),
       (SELECT array_agg(a.attname::text ORDER BY k.o) FROM unnest(f.confkey) WITH ORDINALITY k(n, o)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.n),
       f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'),
       ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', o_n.nspname, o.oprname)
               FROM unnest(f.conpfeqop) WITH ORDINALITY k(operator, place)
               JOIN pg_catalog.pg_operator o ON o.oid = k.operator
               JOIN pg_catalog.pg_namespace o_n ON o_n.oid = o.oprnamespace ORDER BY k.place),
       ARRAY(SELECT top.conrelid::text UNION SELECT tree.relid::oid::text
               FROM pg_catalog.pg_partition_tree(top.conrelid) tree)
  FROM upward u
  JOIN pg_catalog.pg_constraint f ON f.oid = u.origin JOIN pg_catalog.pg_constraint top ON top.oid = u.oid
  JOIN pg_catalog.pg_class cc ON cc.oid = top.conrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = cc.relnamespace
  JOIN pg_catalog.pg_class pc ON pc.oid = top.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
 WHERE u.conparentid = 0
 ORDER BY cn.nspname, cc.relname, f.conname

-- name: may_set_replica_role
-- Superusers, and from PostgreSQL 15 whoever was given GRANT SET ON PARAMETER (manual: GRANT, "SET ON PARAMETER").
SELECT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user)
    OR pg_catalog.has_parameter_privilege(session_user, 'session_replication_role', 'SET')

-- name: user_triggers
-- The application's enabled triggers on the tables, and whether the login role owns the table (may disable them). Those
-- that call a function of ours (armed.py) are none of the application's: the undo is to be logged as well.
SELECT c.oid::text, g.tgname, g.tgenabled::text, pg_catalog.pg_has_role(session_user, c.relowner, 'USAGE')
  FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
 WHERE g.tgrelid = ANY ($1::oid[]) AND NOT g.tgisinternal AND g.tgenabled <> 'D'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace o ON o.oid = p.pronamespace
                    WHERE p.oid = g.tgfoid AND o.nspname = 'backout')
 ORDER BY 1, 2

-- name: user_rules
-- The application's enabled rules on the tables, but those that make a view.
SELECT r.rulename, r.ev_enabled::text FROM pg_catalog.pg_rewrite r
 WHERE r.ev_class = ANY ($1::oid[]) AND r.ev_enabled <> 'D' AND r.ev_type <> '1'
 ORDER BY 1

-- name: unchecked_in_replicas
-- Unique and exclusion constraints that are checked late: by a trigger, which does not fire in the replica role
-- (measured on 15 to 18: duplicates pass).
SELECT f.conname FROM pg_catalog.pg_constraint f
 WHERE f.conrelid = ANY ($1::oid[]) AND f.contype IN ('p', 'u', 'x') AND f.condeferrable
 ORDER BY 1

-- name: catalogue_rows_of_ours
-- Rows in the catalogues that this transaction wrote, other than those of its temporary objects: DDL hidden in a
-- function. `{ours:c}` stands for the test of c.xmin (see `images.ours`). $1: tables whose own trigger and class rows are expected.
SELECT what FROM (
    SELECT 'relation ' || c.relname AS what FROM pg_catalog.pg_class c
     WHERE c.relpersistence <> 't' AND c.relnamespace <> pg_catalog.pg_my_temp_schema()
       AND {ours:c} AND NOT c.oid = ANY ($1::oid[])
       AND NOT (c.relkind IN ('t', 'i') AND c.relnamespace = 'pg_toast'::regnamespace)
    UNION ALL
    SELECT 'column ' || a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
     WHERE c.relpersistence <> 't' AND {ours:a}
       AND c.relnamespace <> 'pg_toast'::regnamespace
    UNION ALL
    SELECT 'constraint ' || f.conname FROM pg_catalog.pg_constraint f
      LEFT JOIN pg_catalog.pg_class c ON c.oid = f.conrelid
     WHERE coalesce(c.relpersistence, 'p') <> 't' AND {ours:f}
    UNION ALL
    SELECT 'trigger ' || g.tgname FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
     WHERE c.relpersistence <> 't' AND {ours:g} AND NOT c.oid = ANY ($1::oid[])
    UNION ALL
    SELECT 'type ' || t.typname FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
     WHERE {ours:t} AND t.typnamespace <> pg_catalog.pg_my_temp_schema()
    UNION ALL
    SELECT 'function ' || p.proname FROM pg_catalog.pg_proc p
     WHERE {ours:p} AND p.pronamespace <> pg_catalog.pg_my_temp_schema()
    UNION ALL
    SELECT 'schema ' || n.nspname FROM pg_catalog.pg_namespace n
     WHERE {ours:n} AND n.nspname !~ '^pg_(toast_)?temp_[0-9]+$'
    UNION ALL
    SELECT 'sequence ' || c.relname FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
     WHERE {ours:s} AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'rule on ' || c.relname FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
     WHERE {ours:r} AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'policy on ' || c.relname FROM pg_catalog.pg_policy y JOIN pg_catalog.pg_class c ON c.oid = y.polrelid
     WHERE {ours:y} AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'default on ' || c.relname FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
     WHERE {ours:d} AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'comment on ' || coalesce(c.relname, 'an object') FROM pg_catalog.pg_description e
      LEFT JOIN pg_catalog.pg_class c ON c.oid = e.objoid AND e.classoid = 'pg_class'::regclass
     WHERE {ours:e} AND coalesce(c.relpersistence, 'p') <> 't'
) AS ours ORDER BY 1 LIMIT 20

-- name: vanished_locks
-- Relations, types and schemas that this backend has locked and that it does not see: DROP hidden in a function, or a
-- temporary object that is gone again. Who still sees the past knows which; see `vanished`.
SELECT coalesce(l.relation, l.objid)::text FROM pg_catalog.pg_locks l
 WHERE l.pid = pg_catalog.pg_backend_pid() AND l.granted AND l.mode = 'AccessExclusiveLock'
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
   AND CASE l.locktype
         WHEN 'relation' THEN NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = l.relation)
         WHEN 'object' THEN CASE l.classid
           WHEN 'pg_type'::regclass THEN NOT EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = l.objid)
           WHEN 'pg_namespace'::regclass THEN NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.oid = l.objid)
           ELSE false END
         ELSE false END

-- name: vanished
-- What these oids are to a session that sees the past; nothing for what the run itself had made.
SELECT 'relation ' || c.relname FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[]) AND c.relpersistence <> 't'
UNION ALL
SELECT 'type ' || t.typname FROM pg_catalog.pg_type t WHERE t.oid = ANY ($1::oid[])
   AND t.typnamespace NOT IN (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname ~ '^pg_(toast_)?temp_[0-9]+$')
UNION ALL
SELECT 'schema ' || n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = ANY ($1::oid[])
 ORDER BY 1 LIMIT 20

-- name: lockable
-- The quoted name of a table or partitioned table, for LOCK TABLE; no row for views, sequences and the like.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass($1) AND c.relkind IN ('r', 'p')
   AND pg_catalog.has_table_privilege(c.oid, 'SELECT')

-- name: rights_on_table
-- Which rights the role $2 and the login role $3 have on table $1, on the whole or on some column of it; no row for what is
-- no table of the application's.
SELECT n.nspname, c.relname,
       ARRAY(SELECT r FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) r
              WHERE pg_catalog.has_table_privilege($2, c.oid, r)
                 OR (r <> 'DELETE' AND pg_catalog.has_any_column_privilege($2, c.oid, r))),
       ARRAY(SELECT r FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) r
              WHERE pg_catalog.has_table_privilege($3, c.oid, r)
                 OR (r <> 'DELETE' AND pg_catalog.has_any_column_privilege($3, c.oid, r)))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = $1::oid AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'

-- name: size_facts
-- What `check --on` tells of a table: the planner's estimate of rows (-1: never analysed), bytes with indexes, children.
SELECT nullif(c.reltuples, -1)::bigint, pg_catalog.pg_total_relation_size(c.oid), c.relkind::text,
       c.relrowsecurity, c.relforcerowsecurity, pg_catalog.has_table_privilege(c.oid, 'SELECT')
  FROM pg_catalog.pg_class c WHERE c.oid = $1::oid

-- name: rescue_bytes
-- The bytes of a run's rescue tables, TOAST included. $1: names in the rescue schema $2.
SELECT coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)), 0)::bigint
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $2 AND c.relname = ANY ($1)

-- name: waits_for_us
-- The relation lock that backend $1 waits for, if it is backend $2 that stands in the way (manual 9.26, pg_blocking_pids).
SELECT n.nspname, c.relname, l.mode FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE l.pid = $1 AND l.locktype = 'relation' AND NOT l.granted AND $2 = ANY (pg_catalog.pg_blocking_pids($1))

-- name: lock_holders
-- Who holds locks on a table that conflict with a writer, or is queued for one; for the message of a lock timeout. First
-- those on the table $2, where it is known, then those on tables that our own sessions ($1) have locked.
SELECT a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.usename::text, coalesce(a.state, '?'),
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint, l.granted, l.mode
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype IN ('relation', 'transactionid', 'tuple') AND l.pid <> ALL ($1::int[])
   AND a.datname = current_database() AND a.state LIKE '%transaction%'
   AND l.mode IN ('RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
 ORDER BY l.relation = pg_catalog.to_regclass($2) DESC NULLS LAST,
          EXISTS (SELECT FROM pg_catalog.pg_locks o WHERE o.pid = ANY ($1::int[]) AND o.relation = l.relation) DESC,
          l.granted DESC, a.xact_start LIMIT 1

-- name: countable
-- Where the application's rows are: permanent tables and leaves of partitions that the login role may read.
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('backout', $1, 'information_schema')
   AND n.nspname !~ '^pg_' AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
   AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
 ORDER BY 1, 2

-- name: deferred_constraints
-- Constraints that are checked at COMMIT unless told otherwise (manual: pg_constraint, SET CONSTRAINTS).
SELECT DISTINCT n.nspname, k.conname
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
 WHERE k.condeferred ORDER BY 1, 2

-- name: is_encrypted_by_gss
-- Whether this session's bytes are encrypted by Kerberos (manual 27.2.9): libpq says so of TLS alone.
SELECT coalesce(
    (SELECT g.encrypted FROM pg_catalog.pg_stat_gssapi g WHERE g.pid = pg_catalog.pg_backend_pid()), false)

-- name: newcomers
-- Client sessions of our own machine in this database that are not ours ($1) and began in the last $2 seconds. Where the
-- server is on our machine itself, they may come by its socket, by loopback or by its own address. Another backout of this
-- account, as one that watches, is no such session; a name alone could be anybody's.
SELECT a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.usename::text
  FROM pg_catalog.pg_stat_activity a
  JOIN pg_catalog.pg_stat_activity o ON o.pid = pg_catalog.pg_backend_pid(),
       LATERAL (SELECT x IS NULL OR x << inet '127.0.0.0/8' OR x = inet '::1' OR x = pg_catalog.inet_server_addr()
                  FROM (VALUES (o.client_addr)) v(x)) ours(is_local),
       LATERAL (SELECT x IS NULL OR x << inet '127.0.0.0/8' OR x = inet '::1' OR x = pg_catalog.inet_server_addr()
                  FROM (VALUES (a.client_addr)) v(x)) its(is_local)
 WHERE a.backend_type = 'client backend' AND a.datname = current_database() AND a.pid <> ALL ($1::int[])
   AND a.client_port IS NOT NULL
   AND (a.client_addr IS NOT DISTINCT FROM o.client_addr OR ours.is_local AND its.is_local)
   AND a.backend_start > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)
   AND NOT (a.application_name LIKE 'backout: %' AND a.usename = session_user)
 ORDER BY 1

-- name: rescue_goes_to
-- What would send the rows of the rescue tables elsewhere: publications for all tables, for the schema ($1), or for a
-- table in it (manual 29.1), and logical slots whose plugin sends every table (29.2: pgoutput alone asks publications).
SELECT 'publication', p.pubname::text
  FROM pg_catalog.pg_publication p
 WHERE p.puballtables
    OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
                WHERE s.pnpubid = p.oid AND n.nspname = $1)
    OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE r.prpubid = p.oid AND n.nspname = $1)
 UNION ALL
SELECT 'logical replication slot', s.slot_name::text
  FROM pg_catalog.pg_replication_slots s
 WHERE s.slot_type = 'logical' AND s.plugin <> 'pgoutput' AND s.database = current_database()
 ORDER BY 1, 2
