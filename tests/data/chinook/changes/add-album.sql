-- /// change
-- title = "Add an album with its tracks"
-- request = "https://tracker.example.org/106"
-- ///

-- @expect 1
INSERT INTO album (title, artist_id) SELECT 'Power Up', artist_id FROM artist WHERE name = 'AC/DC';

-- @expect 3
INSERT INTO track (name, album_id, media_type_id, genre_id, composer, milliseconds, unit_price)
SELECT song.name, album.album_id, 1, 1, 'A. Young', song.milliseconds, 1.29
FROM album CROSS JOIN (
    SELECT 'Realize' AS name, 217000 AS milliseconds
    UNION ALL SELECT 'Rejection', 246000
    UNION ALL SELECT 'Shot in the Dark', 185000
) AS song
WHERE album.title = 'Power Up';

-- @assert "the album is complete"
SELECT count(*) = 3 FROM track JOIN album ON album.album_id = track.album_id WHERE album.title = 'Power Up';
