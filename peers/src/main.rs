//! A measured process on one of the existing providers. `steadfast-bench compare` starts it and speaks with it by lines.
//!
//! Invariant: every provider is opened as its documentation says, with its own defaults.

use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use duroxide::providers::Provider;

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    provider: Kind,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Pg,
    PgOpt,
    Sqlite,
}

#[tokio::main]
async fn main() -> Result<()> {
    let kind = Cli::parse().provider;
    steadfast_bench::child::serve(move |store, schema| async move {
        let provider: Arc<dyn Provider> = match kind {
            Kind::Pg => Arc::new(duroxide_pg::PostgresProvider::new_with_schema(&store, Some(&schema)).await?),
            Kind::PgOpt => Arc::new(duroxide_pg_opt::PostgresProvider::new_with_schema(&store, Some(&schema)).await?),
            Kind::Sqlite => {
                let url = format!("sqlite:{store}?mode=rwc");
                Arc::new(duroxide::providers::sqlite::SqliteProvider::new(&url, None).await?)
            }
        };
        Ok(provider)
    })
    .await
}
