//! Plans as PostgreSQL really ran them, nested statements included: `auto_explain` sends them as notices.

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// A session that explains every statement it runs.
pub(super) struct Session {
    pub(super) client: Client,
    heard: Arc<Mutex<Vec<Value>>>,
}

/// One call of a function with everything that it ran.
pub(super) struct Explained {
    what: String,
    /// Plans in the order in which they ended; the call itself is last.
    plans: Vec<Value>,
}

/// The test matrix says so by this variable of servers that were unpacked from a wheel, without `auto_explain`.
const WITHOUT: &str = "STEADFAST_TEST_WITHOUT_AUTO_EXPLAIN";

/// Whether this server has `auto_explain`. Debian's packages do; servers that are unpacked from a wheel for the test
/// matrix do not, and there nothing can be said about nested plans. Anywhere else its absence is a failure.
pub(super) async fn can_explain(url: &str) -> bool {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    match client.batch_execute("LOAD 'auto_explain'").await {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.code(), Some(&SqlState::UNDEFINED_FILE), "{error:?}");
            assert!(
                std::env::var_os(WITHOUT).is_some(),
                "no auto_explain on this server, and {WITHOUT} does not say that this is known"
            );
            eprintln!("no auto_explain on this server: nothing is checked");
            false
        }
    }
}

impl Session {
    pub(super) async fn open(url: &str, schema: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                let AsyncMessage::Notice(notice) = message else {
                    continue;
                };
                if let Some((_, plan)) = notice.message().split_once("plan:\n") {
                    let plan = serde_json::from_str(plan).expect("a plan in JSON");
                    ear.lock().unwrap().push(plan);
                }
            }
        });
        client
            .batch_execute(&format!(
                "LOAD 'auto_explain';
                 SET auto_explain.log_min_duration = 0;
                 SET auto_explain.log_nested_statements = on;
                 SET auto_explain.log_analyze = on;
                 SET auto_explain.log_buffers = on;
                 SET auto_explain.log_timing = off;
                 SET auto_explain.log_format = json;
                 SET auto_explain.log_level = notice;
                 SET client_min_messages = notice;
                 SET jit = off;
                 SET statement_timeout = '30s';
                 SET search_path TO \"{schema}\""
            ))
            .await
            .expect("we are superuser");
        Self { client, heard }
    }

    /// Runs one statement. It takes part in whatever transaction is open.
    pub(super) async fn explain(&self, what: &str, sql: &str) -> Explained {
        self.heard.lock().unwrap().clear();
        self.client
            .simple_query(sql)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:?}\n{sql}"));
        let plans = std::mem::take(&mut *self.heard.lock().unwrap());
        assert!(!plans.is_empty(), "{what} was explained");
        Explained {
            what: what.to_owned(),
            plans,
        }
    }

    /// Runs a statement and takes it back.
    pub(super) async fn rehearse(&self, what: &str, sql: &str) -> Explained {
        self.run("BEGIN").await;
        let explained = self.explain(what, sql).await;
        self.run("ROLLBACK").await;
        explained
    }

    pub(super) async fn run(&self, sql: &str) {
        self.client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    }
}

impl Explained {
    /// Pages touched by the call as a whole: the outermost plan counts what ran inside it.
    pub(super) fn buffers(&self) -> u64 {
        let Some(outer) = self.plans.last() else { return 0 };
        let pages = |key: &str| outer["Plan"][key].as_u64().expect("buffers were counted");
        pages("Shared Hit Blocks") + pages("Shared Read Blocks")
    }

    /// Pages that the statements which contain `text` touched.
    pub(super) fn breakdown(&self) -> String {
        let mut lines = String::new();
        for plan in &self.plans {
            let text = shortened(plan);
            let pages = |key: &str| plan["Plan"][key].as_u64().unwrap_or(0);
            lines += &format!(
                "{:>8} {text}\n",
                pages("Shared Hit Blocks") + pages("Shared Read Blocks")
            );
        }
        lines
    }

    /// Holds every plan against what must never be: reading a whole table of ours, or joining one as a whole; and
    /// against a bound of what one node may read.
    pub(super) fn check(&self, most_rows: f64) -> Vec<String> {
        let mut faults = Vec::new();
        for plan in &self.plans {
            let text = shortened(plan);
            walk(&plan["Plan"], &mut |node| {
                let kind = node["Node Type"].as_str().unwrap_or("");
                let relation = node["Relation Name"].as_str().unwrap_or("");
                let number = |key: &str| node[key].as_f64().unwrap_or(0.0);
                let mut fault = |what: &str| {
                    faults.push(format!("{}: {what} on {relation:?} in: {text}", self.what));
                };
                if relation.starts_with("sf_") {
                    if kind.contains("Seq Scan") {
                        fault(kind);
                    }
                    let read = (number("Actual Rows")
                        + number("Rows Removed by Filter")
                        + number("Rows Removed by Index Recheck"))
                        * number("Actual Loops");
                    if read > most_rows {
                        fault(&format!("{kind} reads {read} rows"));
                    }
                    // An index that is walked from end to end has no condition and no limit above it; the bound of
                    // rows finds it when the table is full, this when it is empty.
                    if kind == "Index Only Scan" && node["Index Cond"].is_null() && number("Actual Rows") > 1.0 {
                        fault("a whole index");
                    }
                }
                if kind == "Hash Join" || kind == "Merge Join" {
                    fault(kind);
                }
            });
        }
        faults
    }
}

/// The beginning of a statement, on one line.
fn shortened(plan: &Value) -> String {
    let words: Vec<&str> = plan["Query Text"].as_str().unwrap_or("").split_whitespace().collect();
    words.join(" ").chars().take(160).collect()
}

fn walk(node: &Value, visit: &mut dyn FnMut(&Value)) {
    visit(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        walk(child, visit);
    }
}
