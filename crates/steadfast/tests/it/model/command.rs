//! What a caller can do to a store, and how random sequences of it are made.
//!
//! Invariant: a command names things by small numbers that mean something in any state, so that a shrunk sequence still
//! makes sense.

use std::time::Duration;

use proptest::prelude::*;

/// Instances of a case.
pub(super) const INSTANCES: u8 = 4;
/// Providers of a case: as many processes would have.
pub(super) const CALLERS: u8 = 3;

/// How long a lease or a delay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// It passes within the case.
    Brief,
    /// It outlives the case.
    Long,
}

impl Span {
    pub(super) fn time(self) -> Duration {
        match self {
            Self::Brief => Duration::from_millis(60),
            Self::Long => Duration::from_secs(600),
        }
    }
}

/// How a turn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    GoesOn,
    Completes,
    Fails,
    ContinuesAsNew,
}

/// A change of a key-value.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Set(u8, u16),
    Clear(u8),
    ClearAll,
}

/// Which activities a worker takes, or which tag one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    None,
    Gpu,
}

/// An activity: its tag, and whether it belongs to a session (one of two).
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) tag: Tag,
    pub(super) session: Option<bool>,
}

/// What a turn does.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) jobs: Vec<Job>,
    pub(super) changes: Vec<Change>,
    pub(super) status: Option<Option<u8>>,
    pub(super) timer: Option<Span>,
    pub(super) signal: Option<u8>,
    pub(super) child: Option<u8>,
    /// Cancels the oldest activity that is queued.
    pub(super) cancels: bool,
    /// Writes an event that is there already, and must be refused.
    pub(super) repeats_event: bool,
    pub(super) end: End,
}

/// Which activities a worker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Default,
    Gpu,
    Both,
    Any,
}

/// One step. `caller` is a provider, `claim` counts claims back from the newest.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Start {
        instance: u8,
    },
    Signal {
        instance: u8,
        delay: Option<Span>,
    },
    Message {
        instance: u8,
    },
    Cancel {
        instance: u8,
    },
    FetchTurn {
        lease: Span,
    },
    AckTurn {
        claim: u8,
        turn: Turn,
    },
    AbandonTurn {
        claim: u8,
        delay: Option<Span>,
        ignore: bool,
    },
    RenewTurn {
        claim: u8,
        lease: Span,
    },
    QueueJob {
        instance: u8,
        job: Job,
    },
    FetchJob {
        lease: Span,
        session: Option<Span>,
        takes: Takes,
    },
    AckJob {
        claim: u8,
        completes: bool,
    },
    AbandonJob {
        claim: u8,
        delay: Option<Span>,
        ignore: bool,
    },
    RenewJob {
        claim: u8,
        lease: Span,
    },
    RenewSessions {
        lease: Span,
    },
    SweepSessions,
    Delete {
        instance: u8,
        tree: bool,
        force: bool,
    },
    DeleteEnded,
    Prune {
        instance: u8,
        keep: u8,
    },
    Read {
        instance: u8,
    },
    Wait,
}

/// A command and the provider that is asked.
pub(super) type Step = (u8, Command);

fn span() -> impl Strategy<Value = Span> + Clone {
    prop_oneof![3 => Just(Span::Long), 1 => Just(Span::Brief)]
}

fn delay() -> impl Strategy<Value = Option<Span>> + Clone {
    prop_oneof![3 => Just(None), 2 => Just(Some(Span::Brief)), 1 => Just(Some(Span::Long))]
}

fn job() -> impl Strategy<Value = Job> + Clone {
    let tag = prop_oneof![2 => Just(Tag::None), 1 => Just(Tag::Gpu)];
    let session = prop_oneof![2 => Just(None), 1 => any::<bool>().prop_map(Some)];
    (tag, session).prop_map(|(tag, session)| Job { tag, session })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..3_u8, any::<u16>()).prop_map(|(key, value)| Change::Set(key, value)),
        2 => (0..3_u8).prop_map(Change::Clear),
        1 => Just(Change::ClearAll),
    ]
}

fn seldom<T: std::fmt::Debug + Clone + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![3 => Just(None), 1 => of.prop_map(Some)]
}

fn turn() -> impl Strategy<Value = Turn> {
    let end = prop_oneof![
        5 => Just(End::GoesOn),
        1 => Just(End::Completes),
        1 => Just(End::Fails),
        2 => Just(End::ContinuesAsNew),
    ];
    let work = (
        prop::collection::vec(job(), 0..3),
        prop::collection::vec(change(), 0..3),
    );
    let sent = (seldom(span()), seldom(0..INSTANCES), seldom(0..INSTANCES));
    let rare = (prop::bool::weighted(0.2), prop::bool::weighted(0.05));
    (work, seldom(seldom(any::<u8>())), sent, rare, end).prop_map(
        |((jobs, changes), status, (timer, signal, child), (cancels, repeats_event), end)| Turn {
            jobs,
            changes,
            status,
            timer,
            signal,
            child,
            cancels,
            repeats_event,
            end,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let instance = || 0..INSTANCES;
    // Mostly the newest claim, sometimes one that is long spent.
    let claim = || prop_oneof![6 => Just(0_u8), 3 => Just(1_u8), 1 => 2..8_u8];
    let takes = prop_oneof![
        2 => Just(Takes::Any),
        1 => Just(Takes::Both),
        1 => Just(Takes::Default),
        1 => Just(Takes::Gpu),
    ];
    let queues = prop_oneof![
        5 => instance().prop_map(|instance| Command::Start { instance }),
        3 => (instance(), delay()).prop_map(|(instance, delay)| Command::Signal { instance, delay }),
        1 => instance().prop_map(|instance| Command::Message { instance }),
        1 => instance().prop_map(|instance| Command::Cancel { instance }),
        1 => (instance(), job()).prop_map(|(instance, job)| Command::QueueJob { instance, job }),
    ];
    let turns = prop_oneof![
        6 => span().prop_map(|lease| Command::FetchTurn { lease }),
        6 => (claim(), turn()).prop_map(|(claim, turn)| Command::AckTurn { claim, turn }),
        2 => (claim(), delay(), any::<bool>())
            .prop_map(|(claim, delay, ignore)| Command::AbandonTurn { claim, delay, ignore }),
        1 => (claim(), span()).prop_map(|(claim, lease)| Command::RenewTurn { claim, lease }),
    ];
    let jobs = prop_oneof![
        5 => (span(), seldom_none(span()), takes)
            .prop_map(|(lease, session, takes)| Command::FetchJob { lease, session, takes }),
        4 => (claim(), prop::bool::weighted(0.8)).prop_map(|(claim, completes)| Command::AckJob { claim, completes }),
        2 => (claim(), delay(), any::<bool>())
            .prop_map(|(claim, delay, ignore)| Command::AbandonJob { claim, delay, ignore }),
        1 => (claim(), span()).prop_map(|(claim, lease)| Command::RenewJob { claim, lease }),
        1 => span().prop_map(|lease| Command::RenewSessions { lease }),
        1 => Just(Command::SweepSessions),
    ];
    let rest = prop_oneof![
        2 => (instance(), any::<bool>(), any::<bool>())
            .prop_map(|(instance, tree, force)| Command::Delete { instance, tree, force }),
        1 => Just(Command::DeleteEnded),
        1 => (instance(), 0..3_u8).prop_map(|(instance, keep)| Command::Prune { instance, keep }),
        3 => instance().prop_map(|instance| Command::Read { instance }),
        2 => Just(Command::Wait),
    ];
    prop_oneof![4 => queues, 7 => turns, 6 => jobs, 2 => rest]
}

fn seldom_none<T: std::fmt::Debug + Clone + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![1 => Just(None), 3 => of.prop_map(Some)]
}

/// A sequence of steps.
pub(super) fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..CALLERS, command()), 1..longest)
}
