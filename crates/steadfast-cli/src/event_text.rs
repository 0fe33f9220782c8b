//! One event of a history, in words.
//!
//! Invariant: every kind of event can be shown, also one that a later duroxide adds: names come from the event's own JSON.

use duroxide::{Event, EventKind};
use serde_json::{Map, Value};

use crate::{
    clock,
    output::{printable, shorten},
};

/// Columns that every event has and that are shown apart.
const COMMON: [&str; 7] = [
    "type",
    "event_id",
    "source_event_id",
    "instance_id",
    "execution_id",
    "timestamp_ms",
    "duroxide_version",
];
/// Fields that tell most, and come first.
const FIRST: [&str; 4] = ["name", "version", "key", "instance"];
/// Characters of one value before it is cut.
const SHORT: usize = 60;

/// The kind and the details of an event; `full` leaves values whole.
pub(crate) fn describe(event: &Event, full: bool) -> (String, String) {
    let Ok(Value::Object(fields)) = serde_json::to_value(event) else {
        return ("?".to_owned(), "cannot be shown".to_owned());
    };
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or("?").to_owned();
    let details = match failure(&event.kind) {
        Some(text) => cut(&text, full),
        None => pairs(&fields, full),
    };
    (kind, details)
}

fn failure(kind: &EventKind) -> Option<String> {
    match kind {
        EventKind::OrchestrationFailed { details }
        | EventKind::ActivityFailed { details }
        | EventKind::SubOrchestrationFailed { details } => {
            Some(format!("{}: {}", details.category(), details.display_message()))
        }
        _ => None,
    }
}

fn pairs(fields: &Map<String, Value>, full: bool) -> String {
    let own = |name: &str| !COMMON.contains(&name);
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let others = fields
        .iter()
        .filter(|(name, _)| own(name) && !FIRST.contains(&name.as_str()));
    let shown = first.chain(others).filter(|(_, value)| !value.is_null());
    let words: Vec<String> = shown
        .map(|(name, value)| format!("{name}={}", show(name, value, full)))
        .collect();
    words.join(" ")
}

fn show(name: &str, value: &Value, full: bool) -> String {
    match value {
        Value::Number(number) if name.ends_with("_ms") => {
            number.as_u64().map_or_else(|| number.to_string(), clock::exact_stamp)
        }
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => cut(text, full),
        other => cut(&other.to_string(), full),
    }
}

fn cut(text: &str, full: bool) -> String {
    if full { printable(text) } else { shorten(text, SHORT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind) -> Event {
        Event::with_event_id(3, "i", 1, Some(2), kind)
    }

    #[test]
    fn details_begin_with_the_name() {
        let scheduled = event(EventKind::ActivityScheduled {
            name: "Charge".to_owned(),
            input: "x".repeat(100),
            session_id: None,
            tag: None,
        });
        let (kind, details) = describe(&scheduled, false);
        assert_eq!(kind, "ActivityScheduled");
        assert_eq!(details, format!("name=Charge input={}…", "x".repeat(SHORT - 1)));
        assert_eq!(
            describe(&scheduled, true).1,
            format!("name=Charge input={}", "x".repeat(100))
        );
    }

    #[test]
    fn times_are_times() {
        let (_, details) = describe(&event(EventKind::TimerCreated { fire_at_ms: 1_500 }), false);
        assert_eq!(details, "fire_at_ms=1970-01-01T00:00:01.500Z");
    }

    #[test]
    fn failures_are_said_in_words() {
        let details = duroxide::ErrorDetails::Application {
            kind: duroxide::AppErrorKind::ActivityFailed,
            message: "out of paper".to_owned(),
            retryable: false,
        };
        let (kind, text) = describe(&event(EventKind::ActivityFailed { details }), false);
        assert_eq!(kind, "ActivityFailed");
        assert!(
            text.starts_with("application: ") && text.contains("out of paper"),
            "{text}"
        );
    }
}
