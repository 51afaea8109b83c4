-- /// change
-- title = "Delete the second playlist Music, which is the same as the first"
-- request = "https://tracker.example.org/104"
-- ///

-- @assert "it has what the first has"
SELECT count(*) = 0 FROM (
    SELECT track_id FROM playlist_track WHERE playlist_id = 8
    EXCEPT SELECT track_id FROM playlist_track WHERE playlist_id = 1
) AS more;

DELETE FROM playlist_track WHERE playlist_id = 8;

-- @expect 1
DELETE FROM playlist WHERE playlist_id = 8 AND name = 'Music';
