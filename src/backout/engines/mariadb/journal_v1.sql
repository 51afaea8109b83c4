-- The journal, version 1, in a database of its own; it serves every database of the server (column `target`).
-- InnoDB, binary collation. Every statement here may be run by an administrator beforehand; see docs/how-to/rights.md.
CREATE DATABASE IF NOT EXISTS backout CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE DATABASE IF NOT EXISTS {rescue} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS backout.journal (
    target      VARCHAR(64) NOT NULL PRIMARY KEY,
    version     INT NOT NULL,
    environment TEXT NOT NULL,
    identity    TEXT NOT NULL,
    stamped_at  DATETIME(6) NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS backout.run (
    number            BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    target            VARCHAR(64) NOT NULL,
    `change`          TEXT NOT NULL,
    digest            TEXT NOT NULL,
    title             TEXT NOT NULL,
    mode              VARCHAR(20) NOT NULL,
    environment       TEXT NOT NULL,
    operator          TEXT NOT NULL,
    undo_of           BIGINT,
    state             VARCHAR(20) NOT NULL,
    started_at        DATETIME(6) NOT NULL,
    finished_at       DATETIME(6),
    keep_days         DOUBLE NOT NULL,
    expires_at        DATETIME(6),
    rescue_schema     VARCHAR(64) NOT NULL,
    rescue_dropped_at DATETIME(6),
    open_conflicts    INT NOT NULL DEFAULT 0,
    report            LONGTEXT NOT NULL,
    KEY (target, state)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS backout.run_table (
    run           BIGINT NOT NULL,
    place         INT NOT NULL,
    definition    LONGTEXT NOT NULL,
    before_rows   BIGINT NOT NULL,
    after_rows    BIGINT NOT NULL,
    both_rows     BIGINT NOT NULL,
    after_columns LONGTEXT NOT NULL,
    captured_by   TEXT NOT NULL,
    before_rescue VARCHAR(64),
    after_rescue  VARCHAR(64),
    left_rescue   VARCHAR(64),
    undone        BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (run, place)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS backout.progress (
    run       BIGINT NOT NULL,
    place     INT NOT NULL,
    statement LONGTEXT NOT NULL,
    state     VARCHAR(10) NOT NULL,
    begun_at  DATETIME(6) NOT NULL,
    ended_at  DATETIME(6),
    error     TEXT,
    PRIMARY KEY (run, place)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS backout.pulse (
    number  BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    session BIGINT NOT NULL
) ENGINE=InnoDB
