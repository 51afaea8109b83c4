-- The journal of one SQLite database, version 1.
-- Not STRICT: a library older than 3.37 could not open a file with a STRICT table at all
-- (https://sqlite.org/stricttables.html, 6), and the application's library may be older than ours.
CREATE TABLE main.backout_meta (
    name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
    value TEXT NOT NULL CHECK (typeof(value) = 'text')
);
CREATE TABLE main.backout_run (
    number INTEGER PRIMARY KEY,
    "change" TEXT NOT NULL,
    digest TEXT NOT NULL,
    title TEXT NOT NULL,
    mode TEXT NOT NULL,
    environment TEXT NOT NULL,
    operator TEXT NOT NULL,
    undo_of INTEGER,
    keep_days REAL NOT NULL,
    state TEXT NOT NULL,
    holder TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    expires_at TEXT,
    report TEXT NOT NULL DEFAULT '{}',
    rescue_dropped_at TEXT,
    open_conflicts INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE main.backout_run_table (
    run INTEGER NOT NULL REFERENCES backout_run (number),
    position INTEGER NOT NULL,
    table_name TEXT NOT NULL,
    definition TEXT NOT NULL,
    before_rows INTEGER NOT NULL,
    after_rows INTEGER NOT NULL,
    after_columns TEXT NOT NULL,
    captured_by TEXT NOT NULL,
    before_rescue TEXT,
    after_rescue TEXT,
    left_rescue TEXT,
    undone INTEGER NOT NULL DEFAULT 0,
    both_rows INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, position)
);
