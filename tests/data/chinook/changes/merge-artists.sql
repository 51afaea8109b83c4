-- /// change
-- title = "Make one artist of Chico Science & Nação Zumbi and Nação Zumbi"
-- request = "https://tracker.example.org/102"
-- risk = "They were not the same band before 1997."
-- ///

-- @pre "albums of both"
SELECT title FROM album WHERE artist_id IN (18, 191);

-- @expect 2
UPDATE album SET artist_id = (SELECT artist_id FROM artist WHERE name = 'Nação Zumbi')
WHERE artist_id = (SELECT artist_id FROM artist WHERE name = 'Chico Science & Nação Zumbi');

-- @expect 1
DELETE FROM artist WHERE name = 'Chico Science & Nação Zumbi';

-- @assert "the albums are with the one that stays"
SELECT count(*) = 2 FROM album JOIN artist ON artist.artist_id = album.artist_id WHERE artist.name = 'Nação Zumbi';
