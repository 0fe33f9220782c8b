//! What is installed, compared object by object with what this version installs: the same for both engines.
//!
//! Invariants: the expectation is made from an installation, never written by hand; a comparison changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is the matter with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindingKind {
    /// This version installs it, and it is not there.
    Missing,
    /// It is there, and not as this version installs it.
    Differs {
        /// What of it differs: `body`, `settings`, `columns`, `enabled`, …
        what: String,
    },
    /// It is there, belongs to ours, and this version installs no such thing.
    Foreign,
    /// It belongs to a role that could make its caller run something (PostgreSQL only).
    ForeignOwner {
        /// Whose it is.
        owner: String,
    },
}

/// One difference between what is installed and what this version installs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What is the matter.
    pub kind: FindingKind,
    /// Which object: its kind and name, such as `index sf_work_due` or `column sf_turn.lane`.
    pub object: String,
    /// Whether a provider refuses to open because of it: it changes, or could change, what calls do. Where this is
    /// `false`, opening says so in the log and goes on.
    pub stops_opening: bool,
    /// Its kind and name apart; empty for an owner.
    pub(crate) key: (String, String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FindingKind::Missing => write!(f, "{} is missing", self.object),
            FindingKind::Differs { what } => write!(f, "{} differs in its {what}", self.object),
            FindingKind::Foreign => write!(f, "{} is not Steadfast's", self.object),
            FindingKind::ForeignOwner { owner } => write!(f, "{} belongs to the role {owner:?}", self.object),
        }
    }
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// What was put back.
    pub mended: Vec<Finding>,
    /// What is still not as this version installs it: things that are not Steadfast's.
    pub left: Vec<Finding>,
}

/// The first few findings, for a message.
pub(crate) fn in_short(findings: &[Finding]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = findings.iter().take(SHOWN).map(ToString::to_string).collect();
    if let Some(more @ 1..) = findings.len().checked_sub(SHOWN) {
        text.push(format!("{more} more"));
    }
    text.join("; ")
}

/// Objects by kind and name, each with its fact: `;`-separated pairs `name=value`, or any text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing(pub(crate) BTreeMap<(String, String), String>);

impl Listing {
    pub(crate) fn insert(&mut self, kind: &str, object: &str, fact: &str) {
        self.0.insert((kind.to_owned(), object.to_owned()), fact.to_owned());
    }

    pub(crate) fn has(&self, kind: &str, object: &str) -> bool {
        self.0.contains_key(&(kind.to_owned(), object.to_owned()))
    }
}

/// What differs, in the order of the listings. Of a table that is missing, its parts are not named.
pub(crate) fn compare(expected: &Listing, found: &Listing) -> Vec<Finding> {
    let missing_tables: BTreeSet<&str> = expected
        .0
        .keys()
        .filter(|(kind, object)| kind == "table" && !found.has(kind, object))
        .map(|(_, object)| object.as_str())
        .collect();
    let mut findings = Vec::new();
    for ((kind, object), fact) in &expected.0 {
        let what = match found.0.get(&(kind.clone(), object.clone())) {
            Some(same) if same == fact => continue,
            Some(other) => FindingKind::Differs {
                what: difference(fact, other),
            },
            None if table_of(kind, object, fact).is_some_and(|t| missing_tables.contains(t)) => continue,
            None => FindingKind::Missing,
        };
        findings.push(finding(kind, object, what, fact));
    }
    for ((kind, object), fact) in &found.0 {
        // Of a table that is not ours, its parts are nobody's business.
        let ours = |t: &str| ["table", "view", "sequence"].iter().any(|kind| expected.has(kind, t));
        let of_ours = table_of(kind, object, fact).is_none_or(ours);
        if of_ours && !expected.has(kind, object) {
            findings.push(finding(kind, object, FindingKind::Foreign, fact));
        }
    }
    findings
}

/// The table that an object is part of.
fn table_of<'a>(kind: &str, object: &'a str, fact: &'a str) -> Option<&'a str> {
    match kind {
        "table" | "view" | "sequence" | "function" => None,
        "grant to public" if object == "@" => None,
        "index" => fact.split("; ").find_map(|part| part.strip_prefix("table=")),
        _ => object.split('.').next(),
    }
}

/// Names the parts of a fact that differ.
fn difference(expected: &str, found: &str) -> String {
    let parts = |fact: &str| -> BTreeMap<String, String> {
        fact.split("; ")
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    let (expected, found) = (parts(expected), parts(found));
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differing: Vec<&str> = names
        .into_iter()
        .filter(|name| expected.get(*name) != found.get(*name))
        .map(String::as_str)
        .collect();
    // A fact that is one expression has no parts with names that anybody would know.
    match differing.as_slice() {
        [] => "definition".to_owned(),
        names if names.iter().all(|name| name.len() <= 20) => names.join(", "),
        _ => "definition".to_owned(),
    }
}

fn finding(kind: &str, object: &str, what: FindingKind, fact: &str) -> Finding {
    Finding {
        stops_opening: stops_opening(kind, &what, fact),
        object: match (kind, object) {
            ("grant to public", "@") => "grant to public on the schema".to_owned(),
            ("grant to public", object) => format!("grant to public on {object}"),
            (kind, object) => format!("{kind} {object}"),
        },
        kind: what,
        key: (kind.to_owned(), object.to_owned()),
    }
}

/// What changes the meaning of calls stops an opening. An index that only makes them fast, a view, which is for people, a
/// grant, and things of others that are not attached to ours do not.
fn stops_opening(kind: &str, what: &FindingKind, fact: &str) -> bool {
    let foreign = matches!(what, FindingKind::Foreign);
    match kind {
        "view" | "grant to public" => false,
        "index" => fact.contains("unique=true"),
        // An older version's, which programs of that version still call: whose it is, is looked at apart.
        "function" | "table" | "sequence" if foreign => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(lines: &[(&str, &str, &str)]) -> Listing {
        let mut listing = Listing::default();
        for (kind, object, fact) in lines {
            listing.insert(kind, object, fact);
        }
        listing
    }

    #[test]
    fn differences_are_named_and_weighed() {
        let expected = listing(&[
            ("table", "sf_a", "kind=r"),
            ("column", "sf_a.x", "place=1; type=bigint"),
            ("table", "sf_b", "kind=r"),
            ("column", "sf_b.x", "place=1; type=bigint"),
            ("index", "sf_b_x", "table=sf_b; unique=false"),
            ("index", "sf_a_x", "table=sf_a; unique=false"),
            ("function", "sf_f(bigint)", "volatility=v; body=1"),
        ]);
        let found = listing(&[
            ("table", "sf_a", "kind=r"),
            ("column", "sf_a.x", "place=1; type=text"),
            ("trigger", "sf_a.evil", "enabled=O"),
            ("table", "sf_mine", "kind=r"),
            ("trigger", "sf_mine.own", "enabled=O"),
            ("function", "sf_f(bigint)", "volatility=v; body=2"),
            ("function", "sf_f(integer)", "volatility=v; body=2"),
            ("function", "sf_mine()", "volatility=v; body=2"),
        ]);
        let said: Vec<String> = compare(&expected, &found)
            .iter()
            .map(|f| format!("{}{f}", if f.stops_opening { "! " } else { "" }))
            .collect();
        assert_eq!(
            said,
            [
                "! column sf_a.x differs in its type",
                "! function sf_f(bigint) differs in its body",
                "index sf_a_x is missing",
                "! table sf_b is missing",
                "function sf_f(integer) is not Steadfast's",
                "function sf_mine() is not Steadfast's",
                "table sf_mine is not Steadfast's",
                "! trigger sf_a.evil is not Steadfast's",
            ]
        );
        assert!(compare(&expected, &expected).is_empty());
    }

    #[test]
    fn a_message_names_a_few() {
        let one = Finding {
            kind: FindingKind::Missing,
            object: "table sf_a".to_owned(),
            stops_opening: true,
            key: Default::default(),
        };
        assert_eq!(in_short(std::slice::from_ref(&one)), "table sf_a is missing");
        assert!(in_short(&vec![one; 5]).ends_with("; 2 more"));
    }
}
