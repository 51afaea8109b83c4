-- A small clinic for `backout demo` (PostgreSQL 15 and newer): 300 patients, 600 referrals, 900 notes.
--
-- Every person, clinic and event is made up, and every value is computed from its number: the database is the same
-- each time, so that the demo can say beforehand what will happen. It is run by the role that is to own the tables.
--
-- The story: a message queue was out from 2026-11-09 to 2026-11-14. Clinics answered 180 referrals in those days, and
-- 132 of those answers never came back: the referrals still say "open".

CREATE TABLE clinic (
    id    integer PRIMARY KEY,
    name  text NOT NULL UNIQUE,
    city  text NOT NULL
);

CREATE TABLE patient (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    full_name   text NOT NULL,
    born_on     date NOT NULL,
    clinic_id   integer NOT NULL REFERENCES clinic ON DELETE RESTRICT,
    phone       text
);

CREATE TABLE referral (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    patient_id  integer NOT NULL REFERENCES patient ON DELETE CASCADE,
    clinic_id   integer NOT NULL REFERENCES clinic ON DELETE RESTRICT,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'answered', 'closed')),
    reason      text NOT NULL,
    opened_at   timestamp NOT NULL,
    closed_at   timestamp CHECK (closed_at >= opened_at),
    updated_at  timestamp NOT NULL
);

CREATE INDEX referral_patient ON referral (patient_id);
CREATE INDEX referral_open ON referral (opened_at) WHERE status = 'open';

CREATE TABLE note (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    referral_id  integer NOT NULL REFERENCES referral ON DELETE CASCADE,
    author       text NOT NULL,
    body         text NOT NULL,
    written_at   timestamp NOT NULL
);

CREATE INDEX note_referral ON note (referral_id);

CREATE TABLE audit_log (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    referral_id  integer NOT NULL,
    operation    text NOT NULL,
    old_status   text,
    new_status   text,
    changed_by   text NOT NULL DEFAULT session_user,
    changed_at   timestamp NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO clinic (id, name, city) VALUES
    (1, 'Harbour Street Practice', 'Port Ellery'),
    (2, 'Northgate Family Clinic', 'Northgate'),
    (3, 'Saint Orla Hospital, Cardiology', 'Port Ellery'),
    (4, 'Saint Orla Hospital, Orthopaedics', 'Port Ellery'),
    (5, 'Linden Eye Centre', 'Lindenfield'),
    (6, 'Meadow Lane Physiotherapy', 'Northgate');

INSERT INTO patient (full_name, born_on, clinic_id, phone)
SELECT
    (ARRAY['Ada', 'Bela', 'Chidi', 'Dora', 'Emil', 'Farah', 'Goran', 'Hana', 'Idris', 'Jun', 'Kaya', 'Lior', 'Mina',
           'Nils', 'Oona', 'Pavel', 'Rosa', 'Sami', 'Tova', 'Uma'])[1 + n % 20]
    || ' ' ||
    (ARRAY['Abernote', 'Brisk', 'Calloway', 'Dunmore', 'Estrava', 'Fennick', 'Garrowby', 'Holt', 'Ibsley', 'Jarnow',
           'Kestrel', 'Lumley', 'Marchetti', 'Norwick', 'Ostrander'])[1 + n / 20 % 15],
    DATE '1936-01-01' + (n * 7919) % 29000,
    1 + n % 2,
    CASE WHEN n % 7 = 0 THEN NULL ELSE '555-01' || lpad((n % 100)::text, 2, '0') END
FROM generate_series(1, 300) AS n
ORDER BY n;

-- Referrals 1 to 420 are from September to 8 November and done with. 421 to 600 were opened on 9 to 13 November, in
-- the outage: of every 15 of those, 11 are still open. Some older ones are open for good reason: they wait for a person.
INSERT INTO referral (patient_id, clinic_id, status, reason, opened_at, closed_at, updated_at)
SELECT
    1 + (n * 37) % 300,
    3 + n % 4,
    status,
    (ARRAY['chest pain on exertion', 'knee pain after a fall', 'blurred vision', 'back pain', 'irregular pulse',
           'shoulder stiffness', 'double vision', 'follow-up after surgery'])[1 + n % 8],
    opened_at,
    CASE WHEN status = 'closed' THEN opened_at + interval '3 days' END,
    CASE WHEN status = 'open' THEN opened_at ELSE opened_at + interval '3 days' END
FROM generate_series(1, 600) AS n
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN n <= 420 THEN TIMESTAMP '2026-09-01 08:00' + n * interval '3 hours 50 minutes'
            ELSE TIMESTAMP '2026-11-09 08:00' + (n - 421) * interval '36 minutes'
        END AS opened_at,
        CASE
            WHEN n <= 420 AND n % 60 = 0 THEN 'open'
            WHEN n <= 420 AND n % 9 = 0 THEN 'answered'
            WHEN n <= 420 THEN 'closed'
            WHEN n % 15 < 11 THEN 'open'
            ELSE 'closed'
        END AS status
) AS facts
ORDER BY n;

INSERT INTO note (referral_id, author, body, written_at)
SELECT
    referral.id,
    (ARRAY['Dr. Quill', 'Dr. Tamsin', 'Nurse Okoro', 'Reception'])[1 + n % 4],
    (ARRAY['Letter sent to the clinic.', 'Patient called and asked for a date.', 'Answer of the clinic received by telephone.',
           'Appointment made.', 'Patient prefers mornings.'])[1 + n % 5],
    referral.opened_at + (1 + n / 600) * interval '5 hours'
FROM generate_series(1, 900) AS n
JOIN referral ON referral.id = 1 + (n - 1) % 600
ORDER BY n;

-- What an application's own triggers do: a time of the last change, and a log that is only ever added to.
CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

CREATE TRIGGER referral_touch BEFORE UPDATE ON referral
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE FUNCTION write_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit_log (referral_id, operation, new_status) VALUES (NEW.id, TG_OP, NEW.status);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO audit_log (referral_id, operation, old_status) VALUES (OLD.id, TG_OP, OLD.status);
    ELSIF NEW.status IS DISTINCT FROM OLD.status THEN
        INSERT INTO audit_log (referral_id, operation, old_status, new_status)
        VALUES (NEW.id, TG_OP, OLD.status, NEW.status);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER referral_audit AFTER INSERT OR UPDATE OR DELETE ON referral
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
