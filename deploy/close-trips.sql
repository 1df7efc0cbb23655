-- Closes once per minute the trips that sent no record for ten minutes, so that they get their final fare. See
-- config/fleet.sql.
SELECT public.close_silent_trips() AS closed_for_silence \watch 60
