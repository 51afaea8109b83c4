-- /// change
-- title = "Give every customer of one representative to another"
-- ///

UPDATE customer SET support_rep_id = 4 WHERE support_rep_id = 3;

-- @assert "nobody has more than twenty customers"
SELECT max(n) <= 20 FROM (SELECT count(*) AS n FROM customer GROUP BY support_rep_id) AS per_head;
