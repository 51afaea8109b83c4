-- /// change
-- title = "Correct the e-mail addresses of a domain that has moved"
-- request = "https://tracker.example.org/105"
-- ///

-- @expect 1..10
UPDATE customer SET email = replace(email, '@hotmail.com', '@outlook.com') WHERE email LIKE '%@hotmail.com';

-- @assert "nobody is left behind"
SELECT count(*) = 0 FROM customer WHERE email LIKE '%@hotmail.com';
