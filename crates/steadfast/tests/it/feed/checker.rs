//! The offline checker: what readers were handed, against what writers were told.
//!
//! Invariant: it knows nothing of how the feed works; it judges records only.

use std::collections::{BTreeMap, HashMap, HashSet};

/// A line of a reader's record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Seen {
    Event {
        sequence: u64,
        instance: String,
        event_id: u64,
        ends: bool,
    },
    /// It was told that it had missed what lies between.
    Trimmed { cursor: u64, first: u64 },
    /// It began anew behind this sequence.
    Resumed { after: u64 },
}

/// Something a writer did: all these events, or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct Write {
    pub(super) instance: String,
    pub(super) from: u64,
    pub(super) upto: u64,
}

#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) readers: Vec<Vec<Seen>>,
    pub(super) tried: HashSet<Write>,
    pub(super) acknowledged: HashSet<Write>,
}

/// What is wrong; nothing, it is to be hoped.
pub(super) fn violations(records: &Records) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut log: BTreeMap<u64, (String, u64, bool)> = BTreeMap::new();
    let mut lost: Vec<(u64, u64)> = Vec::new();
    for (n, seen) in records.readers.iter().enumerate() {
        one_reader(n, seen, &mut log, &mut lost, &mut wrong);
    }
    let mut places: HashMap<(&str, u64), u64> = HashMap::new();
    let mut last_of: HashMap<&str, u64> = HashMap::new();
    for (sequence, (instance, id, _)) in &log {
        if let Some(other) = places.insert((instance, *id), *sequence) {
            wrong.push(format!("unique: {instance}/{id} is at {other} and at {sequence}"));
        }
        let last = last_of.insert(instance, *id).unwrap_or(0);
        if *id <= last {
            wrong.push(format!(
                "causal: {instance}/{id} at {sequence} comes after {instance}/{last}"
            ));
        }
    }
    let known: HashSet<(&str, u64)> = (records.tried.iter())
        .flat_map(|w| (w.from..=w.upto).map(|id| (w.instance.as_str(), id)))
        .collect();
    for place in places.keys().filter(|p| !known.contains(*p)) {
        wrong.push(format!("aborted: {place:?} was never written"));
    }
    for write in &records.tried {
        whole(
            write,
            records.acknowledged.contains(write),
            &places,
            &log,
            &lost,
            &mut wrong,
        );
    }
    wrong.sort();
    wrong
}

/// A reader's own record: dense, resumable, honest; and it agrees with the others.
fn one_reader(
    n: usize,
    seen: &[Seen],
    log: &mut BTreeMap<u64, (String, u64, bool)>,
    lost: &mut Vec<(u64, u64)>,
    wrong: &mut Vec<String>,
) {
    let mut at = 0;
    for line in seen {
        match line {
            Seen::Resumed { after } if *after != at => {
                wrong.push(format!(
                    "resumable: reader {n} stood at {at} and resumed behind {after}"
                ));
                at = *after;
            }
            Seen::Resumed { .. } => {}
            Seen::Trimmed { cursor, first } => {
                if *cursor != at || *first <= at + 1 {
                    wrong.push(format!("honest: reader {n} at {at} was told of {cursor} to {first}"));
                }
                lost.push((at + 1, first - 1));
                at = first - 1;
            }
            Seen::Event {
                sequence,
                instance,
                event_id,
                ends,
            } => {
                if *sequence != at + 1 {
                    wrong.push(format!("ordered: reader {n} was handed {sequence} after {at}"));
                }
                at = *sequence;
                let event = (instance.clone(), *event_id, *ends);
                if *log.entry(*sequence).or_insert_with(|| event.clone()) != event {
                    wrong.push(format!("agreed: readers differ about {sequence}"));
                }
            }
        }
    }
}

/// All of a write or nothing of it, in one piece; nothing is excused only for one that was not acknowledged, or trimmed.
fn whole(
    write: &Write,
    acknowledged: bool,
    places: &HashMap<(&str, u64), u64>,
    log: &BTreeMap<u64, (String, u64, bool)>,
    lost: &[(u64, u64)],
    wrong: &mut Vec<String>,
) {
    let found: Vec<u64> = (write.from..=write.upto)
        .filter_map(|id| places.get(&(write.instance.as_str(), id)).copied())
        .collect();
    let wanted = usize::try_from(write.upto - write.from + 1).unwrap_or(usize::MAX);
    match found.as_slice() {
        [] if acknowledged && lost.is_empty() => wrong.push(format!("complete: {write:?} never arrived")),
        [] => {}
        [.., last] if found.len() == wanted => {
            let consecutive = found.windows(2).all(|w| w[1] == w[0] + 1);
            let ends = found.iter().filter(|s| log[*s].2).eq([last]);
            if !consecutive || !ends {
                wrong.push(format!("atomic: {write:?} is at {found:?}"));
            }
        }
        // A part that nobody read may have been trimmed: then it borders on what is there.
        some if lost.iter().any(|(from, upto)| some[0] > *from && some[0] <= upto + 1) => {}
        some => wrong.push(format!("atomic: of {write:?} only {some:?} arrived")),
    }
}

#[test]
fn it_finds_what_is_wrong() {
    let event = |sequence, event_id, ends| Seen::Event {
        sequence,
        instance: "i".to_owned(),
        event_id,
        ends,
    };
    let write = |from, upto| Write {
        instance: "i".to_owned(),
        from,
        upto,
    };
    let judge = |reader: Vec<Seen>, writes: Vec<Write>| {
        let records = Records {
            readers: vec![reader],
            tried: writes.iter().cloned().collect(),
            acknowledged: writes.into_iter().collect(),
        };
        let wrong = violations(&records);
        wrong
            .first()
            .map_or(String::new(), |w| w.split(':').next().unwrap_or("").to_owned())
    };
    let both = || vec![write(1, 2), write(3, 3)];
    assert_eq!(
        judge(vec![event(1, 1, false), event(2, 2, true), event(3, 3, true)], both()),
        ""
    );
    assert_eq!(judge(vec![event(1, 1, false), event(2, 2, true)], both()), "complete");
    assert_eq!(
        judge(vec![event(1, 1, false), event(2, 2, true), event(4, 3, true)], both()),
        "ordered"
    );
    assert_eq!(
        judge(vec![event(1, 3, true), event(2, 1, false), event(3, 2, true)], both()),
        "causal"
    );
    assert_eq!(
        judge(vec![event(1, 1, false), event(2, 3, true), event(3, 2, true)], both()),
        "atomic"
    );
    assert_eq!(
        judge(vec![event(1, 1, true), event(2, 1, true)], vec![write(1, 1)]),
        "causal"
    );
    assert_eq!(
        judge(vec![event(1, 1, true), event(2, 2, true)], vec![write(1, 1)]),
        "aborted"
    );
    let told = |cursor, first| Seen::Trimmed { cursor, first };
    assert_eq!(
        judge(
            vec![event(1, 1, true), told(1, 5), event(5, 3, true)],
            vec![write(1, 1), write(3, 3)]
        ),
        ""
    );
    assert_eq!(
        judge(
            vec![event(1, 1, true), told(0, 5), event(5, 3, true)],
            vec![write(1, 1), write(3, 3)]
        ),
        "honest"
    );
    let resumed = vec![event(1, 1, true), Seen::Resumed { after: 2 }];
    assert_eq!(judge(resumed, vec![write(1, 1)]), "resumable");
}
