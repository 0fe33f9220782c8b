-- sf_text_of: bytes for people. UTF-8 where it can be shown, otherwise PostgreSQL's escape format.
-- Called by: views and the inspection functions; never on a hot path.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_text_of(p_bytes bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    SELECT CASE WHEN position('\x00'::bytea IN p_bytes) = 0 THEN convert_from(p_bytes, 'UTF8')
                ELSE encode(p_bytes, 'escape') END
$$;
