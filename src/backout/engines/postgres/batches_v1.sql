-- The journal's tables about runs in batches, version 1; made when the first such run begins.
CREATE TABLE backout.batched (
    run            bigint PRIMARY KEY REFERENCES backout.run,
    target         jsonb NOT NULL,          -- the table as it was at the start
    writes         boolean NOT NULL,        -- false: the statement only reads it, and writes others
    by             text[] NOT NULL,
    upper          text[],                  -- where it ends; null: there was no row
    estimated_rows bigint NOT NULL,
    after_columns  text[] NOT NULL,
    before_rescue  text NOT NULL,
    after_rescue   text NOT NULL,
    parameters     text NOT NULL,
    fence          bigint NOT NULL DEFAULT 1,
    wanted         text NOT NULL DEFAULT 'go on' CHECK (wanted IN ('go on', 'pause', 'cancel')),
    finished       boolean NOT NULL DEFAULT false,
    cancelled      boolean NOT NULL DEFAULT false,
    batches        integer NOT NULL DEFAULT 0,
    last           text[],
    looked_at      bigint NOT NULL DEFAULT 0,
    inserted       bigint NOT NULL DEFAULT 0,
    updated        bigint NOT NULL DEFAULT 0,
    deleted        bigint NOT NULL DEFAULT 0,
    affected       bigint NOT NULL DEFAULT 0,
    pause_reason   text
);
CREATE TABLE backout.batch (
    run            bigint NOT NULL REFERENCES backout.batched,
    number         integer NOT NULL,
    after          text[],                  -- null: before the first row
    upto           text[] NOT NULL,
    looked_at      integer NOT NULL,
    inserted       bigint NOT NULL,
    updated        bigint NOT NULL,
    deleted        bigint NOT NULL,
    affected       bigint NOT NULL,
    seconds        double precision NOT NULL,
    fence          bigint NOT NULL,
    xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
    committed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    undoes         integer,
    undone_by      bigint REFERENCES backout.run,
    left_rescue    text,
    open_conflicts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (run, number)
);
-- Tables that were armed with triggers for the run, and what all batches have written there.
CREATE TABLE backout.batched_armed (
    run            bigint NOT NULL REFERENCES backout.batched,
    place          integer NOT NULL,
    target         jsonb NOT NULL,
    inserted       bigint NOT NULL DEFAULT 0,
    updated        bigint NOT NULL DEFAULT 0,
    deleted        bigint NOT NULL DEFAULT 0,
    before_rows    bigint NOT NULL DEFAULT 0,
    after_rows     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (run, place)
);
-- The same of one batch; no row where it has written nothing there.
CREATE TABLE backout.batch_armed (
    run            bigint NOT NULL,
    number         integer NOT NULL,
    place          integer NOT NULL,
    inserted       bigint NOT NULL,
    updated        bigint NOT NULL,
    deleted        bigint NOT NULL,
    before_rows    bigint NOT NULL,
    after_rows     bigint NOT NULL,
    undone         boolean NOT NULL DEFAULT false,
    left_rescue    text,
    PRIMARY KEY (run, number, place),
    FOREIGN KEY (run, number) REFERENCES backout.batch,
    FOREIGN KEY (run, place) REFERENCES backout.batched_armed
);
CREATE TABLE backout.batch_pause (
    run        bigint NOT NULL REFERENCES backout.batched,
    began_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    reason     text NOT NULL,
    value      double precision,
    threshold  double precision
);
ALTER TABLE backout.run DROP CONSTRAINT IF EXISTS run_state_check;
ALTER TABLE backout.run ADD CONSTRAINT run_state_check CHECK (
    state IN ('running', 'committed', 'rolled back', 'refused', 'interrupted', 'partial', 'unknown'));
