-- /// change
-- title = "Delete the second playlist TV Shows, which is the same as the first"
-- request = "https://tracker.example.org/104"
-- ///

-- @assert "it has what the first has"
SELECT count(*) = 0 FROM (
    SELECT track_id FROM playlist_track WHERE playlist_id = 10
    EXCEPT SELECT track_id FROM playlist_track WHERE playlist_id = 3
) AS more;

DELETE FROM playlist_track WHERE playlist_id = 10;

-- @expect 1
DELETE FROM playlist WHERE playlist_id = 10 AND name = 'TV Shows';
