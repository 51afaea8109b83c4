-- /// change
-- title = "Close the referrals that the November outage left open"
-- request = "https://tracker.example.org/4711"
-- requested_by = "product-owner@example.org"
-- data = "internal"
-- risk = "A referral that a clinician reopened by hand could be closed again."
-- mitigation = "Ghost run on staging first; only referrals opened while the queue was out; assertions below."
-- backout = "generated"
-- ///

-- @expect 120..150
UPDATE referral
SET status = 'closed', closed_at = TIMESTAMP '2026-11-20 09:00'
WHERE status = 'open' AND opened_at >= DATE '2026-11-09' AND opened_at < DATE '2026-11-14';

-- @expect 132
INSERT INTO note (referral_id, author, body, written_at)
SELECT id, 'Platform team', 'Closed after the outage of 9 to 13 November; see request 4711.', TIMESTAMP '2026-11-20 09:00'
FROM referral
WHERE status = 'closed' AND closed_at = TIMESTAMP '2026-11-20 09:00';

-- @assert "nothing from the outage is still open"
SELECT count(*) = 0
FROM referral
WHERE status = 'open' AND opened_at >= DATE '2026-11-09' AND opened_at < DATE '2026-11-14';

-- @assert "older referrals that wait for a person still do"
SELECT count(*) = 7 FROM referral WHERE status = 'open';
