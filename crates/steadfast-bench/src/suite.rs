//! The scenarios of a comparison: what is run, by whom, and which requirement it shows.
//!
//! Invariant: every contender of a scenario runs the same workload with the same slots; only the number of instances
//! differs, so that slow and fast ones are measured for about equally long.

use steadfast_bench::protocol::Scenario;

use crate::contender::Kind;

/// What the figure of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Activities per second.
    Activities,
    /// Instances per second.
    Instances,
    /// Milliseconds: p50; smaller is better.
    Latency,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) scenario: Scenario,
    /// Slots of each kind in each process; 0: the workload brings its own runtime.
    pub(crate) slots: usize,
    /// Processes with a runtime on the store, the one that starts and waits included.
    pub(crate) processes: usize,
    pub(crate) unit: Unit,
    /// Instances of the first, short run.
    pub(crate) probe: usize,
    /// Fixed number of instances, where time must not decide.
    pub(crate) fixed: Option<usize>,
    pub(crate) contenders: &'static [Kind],
    /// Ratio to the better peer that is asked for, and by what.
    pub(crate) goal: Option<(&'static str, f64)>,
}

const ALL: &[Kind] = &[
    Kind::Steadfast,
    Kind::Pg,
    Kind::PgOpt,
    Kind::Embedded,
    Kind::Sqlite,
    Kind::Memory,
];
const SERVER: &[Kind] = &[Kind::Steadfast, Kind::Pg, Kind::PgOpt];
const SERVER_AND_MEMORY: &[Kind] = &[Kind::Steadfast, Kind::Pg, Kind::PgOpt, Kind::Embedded, Kind::Memory];

/// Every row, most wanted first.
pub(crate) fn rows() -> Vec<Row> {
    let row = Row {
        name: "",
        scenario: Scenario::FanOut { payload: 0 },
        slots: 2,
        processes: 1,
        unit: Unit::Activities,
        probe: 40,
        fixed: None,
        contenders: SERVER,
        goal: None,
    };
    let fan = |name, slots, goal| Row {
        name,
        slots,
        contenders: ALL,
        goal,
        ..row.clone()
    };
    vec![
        fan("fan-out-2", 2, Some(("D1", 10.0))),
        fan("fan-out-8", 8, None),
        fan("fan-out-32", 32, Some(("D1", 20.0))),
        fan("fan-out-128", 128, None),
        Row {
            name: "chain-400",
            scenario: Scenario::Chain { steps: 400 },
            fixed: Some(1),
            contenders: SERVER_AND_MEMORY,
            goal: Some(("D2", 8.0)),
            ..row.clone()
        },
        Row {
            name: "chain-2000",
            scenario: Scenario::Chain { steps: 2000 },
            fixed: Some(1),
            contenders: &[Kind::Steadfast, Kind::PgOpt, Kind::Embedded, Kind::Memory],
            ..row.clone()
        },
        Row {
            name: "chains-10",
            scenario: Scenario::Chain { steps: 10 },
            slots: 4,
            fixed: Some(100),
            contenders: ALL,
            ..row.clone()
        },
        Row {
            name: "idle-latency",
            scenario: Scenario::Latency { elsewhere: false },
            unit: Unit::Latency,
            fixed: Some(60),
            contenders: ALL,
            goal: Some(("D3", 5.0)),
            ..row.clone()
        },
        Row {
            name: "idle-latency-2",
            scenario: Scenario::Latency { elsewhere: true },
            processes: 2,
            unit: Unit::Latency,
            fixed: Some(60),
            ..row.clone()
        },
        Row {
            name: "processes-2",
            slots: 16,
            processes: 2,
            ..row.clone()
        },
        Row {
            name: "processes-4",
            slots: 8,
            processes: 4,
            ..row.clone()
        },
        Row {
            name: "tree-10",
            scenario: Scenario::Tree { children: 10 },
            slots: 8,
            probe: 10,
            ..row.clone()
        },
        Row {
            name: "timers",
            scenario: Scenario::Timers,
            slots: 8,
            unit: Unit::Instances,
            fixed: Some(300),
            ..row.clone()
        },
        Row {
            name: "signals",
            scenario: Scenario::Signals,
            slots: 8,
            unit: Unit::Instances,
            fixed: Some(200),
            ..row.clone()
        },
        Row {
            name: "payload-100k",
            scenario: Scenario::FanOut { payload: 100 * 1024 },
            slots: 8,
            probe: 10,
            contenders: &[Kind::Steadfast, Kind::Pg, Kind::PgOpt, Kind::Embedded],
            ..row.clone()
        },
        Row {
            name: "upstream-parallel",
            scenario: Scenario::UpstreamParallel,
            slots: 0,
            fixed: Some(1),
            contenders: SERVER_AND_MEMORY,
            ..row.clone()
        },
        Row {
            name: "upstream-large",
            scenario: Scenario::UpstreamLarge,
            slots: 0,
            fixed: Some(1),
            ..row
        },
    ]
}
