//! Instances that no worker has taken: there is nothing of them yet but the message that starts them.
//!
//! Invariant: what a start says is read here and nowhere else; of one that is cut or unreadable, what can be read is told.

use std::cell::RefCell;
use std::fmt;

use duroxide::INITIAL_EXECUTION_ID;
use duroxide::providers::WorkItem;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::inspect::{InstanceSummary, PENDING};

/// So much of a start is read for a listing; its orchestration's name comes first.
pub(crate) const LISTED_BYTES: i32 = 64 << 10;
/// So many starts are read at once.
pub(crate) const PAGE: u32 = 256;

/// A start as a store has it.
pub(crate) struct Queued {
    pub(crate) key: u64,
    pub(crate) instance: String,
    /// Perhaps not all of it.
    pub(crate) payload: Vec<u8>,
    pub(crate) sent_at_ms: u64,
    pub(crate) touched_at_ms: u64,
}

impl From<Queued> for InstanceSummary {
    fn from(queued: Queued) -> Self {
        let said = Said::read(&queued.payload);
        Self {
            key: queued.key,
            instance_id: queued.instance,
            orchestration_name: said.name,
            orchestration_version: said.version.unwrap_or_else(|| "unknown".to_owned()),
            execution_id: INITIAL_EXECUTION_ID,
            status: PENDING.to_owned(),
            parent_instance_id: said.parent,
            created_at_ms: queued.sent_at_ms,
            updated_at_ms: queued.touched_at_ms.max(queued.sent_at_ms),
        }
    }
}

/// What a start says of the instance to be.
#[derive(Default)]
struct Said {
    name: String,
    version: Option<String>,
    parent: Option<String>,
}

impl Said {
    fn read(payload: &[u8]) -> Self {
        if let Ok(WorkItem::StartOrchestration {
            orchestration,
            version,
            parent_instance,
            ..
        }) = serde_json::from_slice(payload)
        {
            return Self {
                name: orchestration,
                version,
                parent: parent_instance,
            };
        }
        let name = RefCell::new(String::new());
        // It ends in the middle, which is an error; what came before has been seen.
        let _ = Beginning { name: &name, depth: 0 }.deserialize(&mut serde_json::Deserializer::from_slice(payload));
        Self {
            name: name.into_inner(),
            ..Self::default()
        }
    }
}

/// Finds the orchestration's name in the beginning of a start.
struct Beginning<'a> {
    name: &'a RefCell<String>,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Beginning<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Beginning<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a start")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match (self.depth, key.as_str()) {
                (0, "StartOrchestration") => map.next_value_seed(Beginning {
                    name: self.name,
                    depth: 1,
                })?,
                (1, "orchestration") => *self.name.borrow_mut() = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Vec<u8> {
        let item = WorkItem::StartOrchestration {
            instance: "i \" \\".to_owned(),
            orchestration: "Name".to_owned(),
            input: "x".repeat(100),
            version: Some("1.2.3".to_owned()),
            parent_instance: Some("p".to_owned()),
            parent_id: Some(2),
            parent_execution_id: Some(1),
            execution_id: 1,
        };
        serde_json::to_vec(&item).unwrap()
    }

    #[test]
    fn a_start_says_what_it_starts() {
        let said = Said::read(&start());
        let said = (said.name.as_str(), said.version.as_deref(), said.parent.as_deref());
        assert_eq!(said, ("Name", Some("1.2.3"), Some("p")));
    }

    #[test]
    fn a_cut_start_has_its_name() {
        let whole = start();
        for end in 90..whole.len() {
            assert_eq!(Said::read(&whole[..end]).name, "Name", "{end}");
        }
        for end in 0..90 {
            Said::read(&whole[..end]);
        }
        assert_eq!(Said::read(b"\xff not json").name, "");
    }
}
