-- The journal, version 1. Every statement here may be run by an administrator beforehand; see docs/how-to/rights.md.
CREATE SCHEMA IF NOT EXISTS backout;
CREATE SCHEMA IF NOT EXISTS {rescue};

CREATE TABLE backout.journal (
    version     integer PRIMARY KEY,
    environment text NOT NULL,
    identity    text NOT NULL,
    stamped_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE backout.run (
    number            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change            text NOT NULL,
    digest            text NOT NULL,
    title             text NOT NULL,
    mode              text NOT NULL CHECK (mode IN ('ghost', 'real', 'undo')),
    environment       text NOT NULL,
    operator          text NOT NULL,
    undo_of           bigint REFERENCES backout.run,
    state             text NOT NULL CHECK (
        state IN ('running', 'committed', 'rolled back', 'refused', 'interrupted', 'unknown')),
    xid               xid8,
    started_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at       timestamptz,
    keep_days         double precision NOT NULL,
    expires_at        timestamptz,
    rescue_schema     text NOT NULL,
    rescue_dropped_at timestamptz,
    open_conflicts    integer NOT NULL DEFAULT 0,
    report            jsonb NOT NULL DEFAULT '{{}}'
);

CREATE TABLE backout.run_table (
    run           bigint NOT NULL REFERENCES backout.run,
    place         integer NOT NULL,
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    table_oid     oid NOT NULL,
    columns       jsonb NOT NULL,
    key           text[] NOT NULL,
    triggers      text[] NOT NULL,
    inserted      bigint NOT NULL,
    updated       bigint NOT NULL,
    deleted       bigint NOT NULL,
    before_rows   bigint NOT NULL,
    after_rows    bigint NOT NULL,
    after_columns text[] NOT NULL,
    captured_by   text NOT NULL,
    before_rescue text,
    after_rescue  text,
    left_rescue   text,
    undone        boolean NOT NULL DEFAULT false,
    PRIMARY KEY (run, place)
);
