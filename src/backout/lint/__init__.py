"""Rules that judge a change's text before anything runs. Rules do not know each other."""
