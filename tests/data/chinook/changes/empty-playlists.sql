-- /// change
-- title = "Empty all playlists at once"
-- ///

DROP TABLE playlist_track;
