//! What of a `pg_dump` is the schema; the invariant: nothing inside a function's body is ever touched.

/// Drops what changes from one dump to the next without the schema changing: comments, settings of the session, the
/// `\restrict` pair with its random key, and runs of blank lines.
pub(crate) fn normalise(dump: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut body: Option<&str> = None;
    for line in dump.lines() {
        if let Some(tag) = body {
            kept.push(line);
            // A body may hold quotes of its own, but never its own tag: pg_dump chose it so.
            if line.contains(tag) {
                body = None;
            }
            continue;
        }
        let line = line.trim_end();
        let blank_again = line.is_empty() && kept.last().is_none_or(|last| last.is_empty());
        if blank_again || is_noise(line) {
            continue;
        }
        kept.push(line);
        body = open_quote(line);
    }
    while kept.last().is_some_and(|last| last.is_empty()) {
        kept.pop();
    }
    kept.push("");
    kept.join("\n")
}

fn is_noise(line: &str) -> bool {
    line.starts_with("--")
        || (line.starts_with("SET ") && line.ends_with(';'))
        || line.starts_with("SELECT pg_catalog.set_config(")
        || line.starts_with("\\restrict")
        || line.starts_with("\\unrestrict")
}

/// The tag of a dollar quote that this line opens and does not close. It stands after `AS`, where pg_dump puts bodies.
fn open_quote(line: &str) -> Option<&str> {
    let start = line.find("AS $")? + "AS ".len();
    let quoted = line.get(start..)?;
    let length = quoted.get(1..)?.find('$')? + 2;
    let tag = quoted.get(..length)?;
    let closed = quoted.get(length..)?.contains(tag);
    (!closed).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_schema_stays() {
        let dump = "--\n-- PostgreSQL database dump\n--\n\n\\restrict k3y\n\n-- Dumped by pg_dump version 15.18\n\n\
                    SET statement_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n\n\
                    CREATE SCHEMA s;\n\n\n\nCREATE TABLE s.t (\n    a integer\n);\n\n\\unrestrict k3y\n\n";
        assert_eq!(
            normalise(dump),
            "CREATE SCHEMA s;\n\nCREATE TABLE s.t (\n    a integer\n);\n"
        );
    }

    #[test]
    fn bodies_are_left_alone() {
        let body = "CREATE FUNCTION s.f() RETURNS void\n    LANGUAGE plpgsql\n    SET search_path TO 's'\n    AS $_$\n\
                    -- why\nBEGIN\nUPDATE t\nSET a = $1;\n\n\nSELECT pg_catalog.set_config('a', 'b', true);\nEND\n$_$;\n";
        assert_eq!(normalise(&format!("{body}\n\n-- end\n")), body);
        // After the body, noise is noise again.
        assert_eq!(
            normalise(&format!("{body}\nSET a = b;\n\n\nCREATE TABLE s.t ();\n")),
            format!("{body}\nCREATE TABLE s.t ();\n")
        );
    }

    #[test]
    fn a_body_on_one_line_opens_nothing() {
        let one_line = "    AS $$select 1$$;\n";
        assert_eq!(normalise(&format!("{one_line}-- noise\n")), one_line);
        assert_eq!(open_quote("CREATE VIEW v AS"), None);
    }
}
