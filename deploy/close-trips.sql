-- Once a minute: trips of which nothing was heard for ten minutes get their final fare. See config/fleet.sql.
SELECT public.close_silent_trips() AS closed_for_silence \watch 60
