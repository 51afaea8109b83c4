-- /// change
-- title = "Raise the prices of Jazz by a tenth"
-- request = "https://tracker.example.org/101"
-- risk = "An invoice that is being written meanwhile could carry the old price."
-- data = "public"
-- ///

-- @expect 130
UPDATE track SET unit_price = round(unit_price * 1.1, 2)
WHERE genre_id = (SELECT genre_id FROM genre WHERE name = 'Jazz');

-- @assert "every Jazz track has the new price"
SELECT count(*) = 130 FROM track WHERE genre_id = 2 AND unit_price = 1.09;
