-- Heard by a server in watch mode, which rebuilds its API.
notify postgraphile_watch;
