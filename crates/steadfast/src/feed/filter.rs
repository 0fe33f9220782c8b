//! Which events a reader wants.
//!
//! Invariant: a filter decides by what an event says, and only decides: it never moves a cursor.

use std::collections::BTreeSet;

use super::event::Event;
use super::kind::Kind;

/// Which events to hand out; all conditions that are set must hold. Applied in the store, where the log is scanned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub(crate) instances: Option<BTreeSet<String>>,
    pub(crate) prefix: Option<String>,
    pub(crate) orchestrations: Option<BTreeSet<String>>,
    pub(crate) kinds: Option<BTreeSet<Kind>>,
}

impl Filter {
    /// Everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this instance; several calls admit several.
    #[must_use]
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instances.get_or_insert_default().insert(id.into());
        self
    }

    /// Only instances whose id begins so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Only instances of this orchestration; several calls admit several.
    #[must_use]
    pub fn orchestration(mut self, name: impl Into<String>) -> Self {
        self.orchestrations.get_or_insert_default().insert(name.into());
        self
    }

    /// Only this kind; several calls admit several.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kinds.get_or_insert_default().insert(kind);
        self
    }

    /// Whether the event is wanted.
    #[must_use]
    pub fn admits(&self, event: &Event) -> bool {
        self.admits_row(&event.instance, event.orchestration.as_deref()) && self.admits_kind(event.kind)
    }

    /// What can be told of an operation as a whole.
    pub(crate) fn admits_row(&self, instance: &str, orchestration: Option<&str>) -> bool {
        self.instances.as_ref().is_none_or(|ids| ids.contains(instance))
            && self.prefix.as_ref().is_none_or(|p| instance.starts_with(p.as_str()))
            && (self.orchestrations.as_ref()).is_none_or(|names| orchestration.is_some_and(|n| names.contains(n)))
    }

    pub(crate) fn admits_kind(&self, kind: Kind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(instance: String, name: Option<String>, kind: Kind) -> Event {
        Event {
            sequence: 1,
            token: "sf1-00000000000000000000000000000000-1-0".parse().unwrap(),
            instance,
            execution_id: 1,
            kind,
            event_id: None,
            at_ms: 0,
            orchestration: name,
            ends_operation: true,
            payload: None,
        }
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(Kind::ALL)
    }

    proptest! {
        #[test]
        fn a_condition_more_never_admits_more(instance in "[ab]{0,3}", name in prop::option::of("[ab]{0,2}"), k in kind(),
                                              prefix in "[ab]{0,2}", other in "[ab]{0,3}", wanted in kind()) {
            let event = event(instance.clone(), name.clone(), k);
            prop_assert!(Filter::new().admits(&event));
            let by_prefix = Filter::new().prefix(prefix.clone());
            prop_assert_eq!(by_prefix.admits(&event), instance.starts_with(&prefix));
            let by_kind = by_prefix.clone().kind(wanted);
            prop_assert_eq!(by_kind.admits(&event), by_prefix.admits(&event) && k == wanted);
            let by_instance = by_kind.clone().instance(other.clone());
            prop_assert_eq!(by_instance.admits(&event), by_kind.admits(&event) && instance == other);
            // Several of one sort admit either.
            prop_assert!(!by_kind.admits(&event) || by_instance.instance(instance).admits(&event));
            let by_name = Filter::new().orchestration("a");
            prop_assert_eq!(by_name.admits(&event), name.as_deref() == Some("a"));
        }
    }
}
