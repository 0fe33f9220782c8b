//! The golden listing: what an installation holds, as the library compares it; the invariant: it is asked with the library's own
//! statement, so that the two cannot differ.

use std::{fs, io::Write, process::Command, process::Stdio};

use anyhow::{Context, Result, bail};
use private_postgres::Binaries;

use crate::workspace::root;

const LISTING: &str = "crates/steadfast/sql/catalogue/listing.sql";
const REMEDIES: &str = include_str!("remedies.sql");

/// The listing of a schema whose name is a plain word; lines in the order of their bytes.
pub(crate) fn make(binaries: &Binaries, url: &str, schema: &str) -> Result<String> {
    let path = root().join(LISTING);
    let listing = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let objects = listing.replace("$SCHEMA$", &format!("'{schema}'"))
        + "SELECT kind || chr(9) || object || chr(9) || fact FROM listing;\n";
    let objects = ask(binaries, url, &objects)?;
    let remedies = ask(binaries, url, REMEDIES)?.replace(&format!("{schema}."), "");
    let mut lines: Vec<String> = objects.lines().map(|line| with_remedy(line, &remedies)).collect();
    lines.sort_unstable();
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn with_remedy(line: &str, remedies: &str) -> String {
    let mut columns = line.splitn(3, '\t');
    let key = [
        columns.next().unwrap_or_default(),
        columns.next().unwrap_or_default(),
        "",
    ]
    .join("\t");
    match remedies.lines().find_map(|remedy| remedy.strip_prefix(&key)) {
        Some(remedy) => format!("{line}\t{remedy}"),
        None => line.to_owned(),
    }
}

fn ask(binaries: &Binaries, url: &str, sql: &str) -> Result<String> {
    let psql = binaries
        .program("psql")
        .context("this PostgreSQL installation has no psql")?;
    let mut child = Command::new(psql)
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run psql")?;
    let text = format!("SET search_path TO pg_catalog, pg_temp;\n{sql}");
    child
        .stdin
        .take()
        .context("psql has no input")?
        .write_all(text.as_bytes())
        .context("cannot tell psql")?;
    let output = child.wait_with_output().context("psql is lost")?;
    if !output.status.success() {
        bail!("psql refused the listing: {}", output.status);
    }
    String::from_utf8(output.stdout).context("psql's answer is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_goes_to_its_object() {
        let remedies = "index\tsf_a\tCREATE INDEX sf_a\nindex\tsf_ab\tCREATE INDEX sf_ab\n";
        assert_eq!(
            with_remedy("index\tsf_ab\tx=1", remedies),
            "index\tsf_ab\tx=1\tCREATE INDEX sf_ab"
        );
        assert_eq!(with_remedy("table\tsf_ab\tx=1", remedies), "table\tsf_ab\tx=1");
    }
}
