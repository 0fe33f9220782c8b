//! A store of a test's own, the command upon it, and a worker that works on it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use duroxide::{
    ActivityContext, OrchestrationContext, OrchestrationRegistry,
    providers::Provider,
    runtime::{Runtime, registry::ActivityRegistry},
};
use serde_json::Value;
use steadfast::{embedded::EmbeddedProvider, feed::Level, postgres::PostgresProvider};

/// How long anything may take that usually takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn database_url() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL is not set; run: cargo xtask test")
}

fn fresh_schema() -> String {
    format!("cli_{}", uuid::Uuid::new_v4().simple())
}

/// The command, without anything that the caller's environment says.
pub(crate) fn steadfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    for variable in [
        "DATABASE_URL",
        "STEADFAST_SCHEMA",
        "RUST_LOG",
        "PGHOST",
        "PGHOSTADDR",
        "PGSERVICE",
        "PGDATABASE",
    ] {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let output = command.output().expect("run the command");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "nothing to complain about");
        self.stdout
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// It failed with this code and one line on stderr, which is returned.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr
    }
}

/// A store of its own, and the command upon it.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) schema: String,
    /// The store is this file in its folder, not the schema.
    file: Option<(PathBuf, tempfile::TempDir)>,
}

impl Place {
    /// A schema that is not there yet.
    pub(crate) fn new() -> Self {
        Self::on(database_url())
    }

    /// A schema that is not there yet, on this server.
    pub(crate) fn on(url: String) -> Self {
        Self {
            url,
            schema: fresh_schema(),
            file: None,
        }
    }

    /// A file that is not there yet.
    pub(crate) fn in_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            file: Some((folder.path().join("store.db"), folder)),
            ..Self::new()
        }
    }

    pub(crate) fn installed() -> Self {
        let place = Self::new();
        place.run(&["schema", "install"]).ok();
        place
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = steadfast(arguments);
        match self.file() {
            Some(path) => command.arg("--file").arg(path),
            None => command
                .env("DATABASE_URL", &self.url)
                .env("STEADFAST_SCHEMA", &self.schema),
        };
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        run(self.command(arguments).arg("--json")).json()
    }

    /// Asks until the answer is as wanted.
    pub(crate) fn until(&self, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ran = run(self.command(arguments).arg("--json"));
            let answer = serde_json::from_str(&ran.stdout).unwrap_or(Value::Null);
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{arguments:?} still answers {ran:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// An orchestration that asks, waits for `go`, and says what it got.
async fn greet(ctx: OrchestrationContext, input: String) -> Result<String, String> {
    let name = ctx.schedule_activity("Upper", input).await?;
    ctx.set_kv_value("name", name.clone());
    ctx.set_custom_status("waiting");
    let word = ctx.schedule_wait("go").await;
    Ok(format!("{word} {name}"))
}

/// A worker of ours on the store, which ends with the returned runtimes.
pub(crate) fn work_on(place: &Place, records: Level) -> (tokio::runtime::Runtime, Arc<Runtime>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let worker = runtime.block_on(async {
        let provider: Arc<dyn Provider> = match place.file() {
            Some(path) => Arc::new(EmbeddedProvider::builder(path).feed(records).open().await.unwrap()),
            None => {
                let builder = PostgresProvider::builder(&place.url).schema(&place.schema);
                Arc::new(builder.pool_size(3).feed(records).connect().await.unwrap())
            }
        };
        let activities = ActivityRegistry::builder()
            .register("Upper", |_: ActivityContext, text: String| async move {
                Ok(text.to_uppercase())
            })
            .build();
        let orchestrations = OrchestrationRegistry::builder().register("Greet", greet).build();
        Runtime::start_with_store(provider, activities, orchestrations).await
    });
    (runtime, worker)
}

/// Sixty files in six folders.
pub(crate) fn fill(dir: &Path) {
    for folder in 0..6 {
        let folder = dir.join(format!("folder {folder}"));
        std::fs::create_dir(&folder).unwrap();
        for file in 0..10 {
            std::fs::write(
                folder.join(format!("file {file}")),
                format!("{folder:?} {file}").repeat(file + 1),
            )
            .unwrap();
        }
    }
}

/// Runs statements on a server, as whoever the URL names.
pub(crate) fn sql(url: &str, text: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let done = client.batch_execute(text).await;
        done.unwrap_or_else(|error| panic!("{text}: {error:?}"));
        drop(client);
        driver.await.unwrap().unwrap();
    });
}

/// The one text that a query of one row brings.
pub(crate) fn asked(url: &str, query: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let text = client.query_one(query, &[]).await.unwrap().get(0);
        drop(client);
        driver.await.unwrap().unwrap();
        text
    })
}
