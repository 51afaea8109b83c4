-- /// change
-- title = "Set the price of a genre; which one and how much depends on the shop"
-- request = "https://tracker.example.org/107"
--
-- [parameters]
-- genre = {type = "text", per_environment = true}
-- price = {type = "numeric", per_environment = true}
-- tracks = {type = "int", per_environment = true}
-- ///

-- @expect :tracks
UPDATE track SET unit_price = :price WHERE genre_id = (SELECT genre_id FROM genre WHERE name = :genre);
