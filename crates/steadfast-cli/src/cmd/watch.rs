//! `steadfast watch`: what happens, as it happens.
//!
//! Invariant: nothing is left out silently: what was trimmed away before it could be shown is said; trouble that passes,
//! such as a restart of the server, is waited for; it ends when nobody reads what it prints, also while nothing happens.

use std::io::ErrorKind;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use steadfast::feed::{ChangePoller, Event, Feed, FeedError, Filter, Kind, NamedCursor, Token};

use crate::{
    cli::Globals,
    clock,
    error::CliError,
    output::{self, Colour, Output, printable},
    store::open_feed,
};

/// Longest wait; news end it.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two attempts while the store cannot be asked.
const PAUSE: Duration = Duration::from_millis(500);

/// Follow what happens to instances, until interrupted
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only this instance (may be repeated)
    #[arg(long, value_name = "ID")]
    instance: Vec<String>,
    /// Only instances whose id begins so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only instances of this orchestration (may be repeated)
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Only this kind of event, such as completed (may be repeated)
    #[arg(long, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Begin behind this sequence; 0: from the beginning (the default)
    #[arg(long, value_name = "N", conflicts_with_all = ["from_now", "token"])]
    from: Option<u64>,
    /// Begin with what happens from now on
    #[arg(long, conflicts_with = "token")]
    from_now: bool,
    /// Resume where this token was printed
    #[arg(long)]
    token: Option<Token>,
    /// Keep the place in the store under this name, and resume there
    #[arg(long, value_name = "NAME")]
    cursor: Option<String>,
    /// End when everything there is was shown
    #[arg(long)]
    until_caught_up: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    at_ms: u64,
    instance: &'a str,
    execution_id: u64,
    kind: String,
    event_id: Option<u64>,
    orchestration: Option<&'a str>,
    token: Token,
}

#[derive(Serialize)]
struct Loss {
    trimmed_after: u64,
    first: u64,
}

pub(crate) async fn run(globals: &Globals, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let feed = open_feed(globals, arguments.cursor.is_some()).await?;
    let result = follow(&feed, arguments, output).await;
    feed.close().await;
    result
}

async fn follow(feed: &Feed, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let mut cursor = Place::open(feed, arguments).await?;
    cursor.poller().with_filter(filter(arguments));
    let mut committed = cursor.poller().last_sequence();
    let mut gone = output::reader_gone();
    let mut watched = true;
    let mut troubled = false;
    loop {
        let polled = match cursor.poller().poll().await {
            Ok(batch) => {
                for event in &batch.events {
                    show(event, output)?;
                }
                output.finish()?;
                // What was filtered out has been read as well: a cursor left behind would hold trimming back.
                cursor.commit(&mut committed).await.map(|()| batch.caught_up)
            }
            Err(error) => Err(error),
        };
        match polled {
            Ok(caught_up) => {
                if std::mem::take(&mut troubled) {
                    output::warn("the store answers again");
                }
                if arguments.until_caught_up && caught_up {
                    return Ok(());
                }
                tokio::select! {
                    () = cursor.poller().wait(PATIENCE) => {}
                    told = &mut gone, if watched => match told {
                        // As when a line could not be written.
                        Ok(()) => return Err(CliError::Output(ErrorKind::BrokenPipe.into())),
                        Err(_) => watched = false,
                    },
                }
            }
            Err(FeedError::Trimmed { cursor: at, first, .. }) => {
                tell_loss(at, first, output)?;
                cursor.poller().seek(first - 1);
            }
            Err(error) if error.is_retryable() => {
                if !std::mem::replace(&mut troubled, true) {
                    output::warn(&format!("{error}; waiting for the store"));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A poller, and whether its place is kept.
enum Place {
    Own(ChangePoller),
    Kept(NamedCursor),
}

impl Place {
    async fn open(feed: &Feed, arguments: &Arguments) -> Result<Self, FeedError> {
        let poller = match (arguments.token, arguments.from_now) {
            (Some(token), _) => ChangePoller::from_token(feed, token),
            (None, true) => ChangePoller::from_now(feed).await?,
            (None, false) => ChangePoller::from_sequence(feed, arguments.from.unwrap_or(0)),
        };
        Ok(match &arguments.cursor {
            None => Self::Own(poller),
            Some(name) => Self::Kept(NamedCursor::open(feed, name, poller).await?),
        })
    }

    fn poller(&mut self) -> &mut ChangePoller {
        match self {
            Self::Own(poller) => poller,
            Self::Kept(cursor) => cursor.poller(),
        }
    }

    /// Keeps the place where it is to be kept and has moved on from `committed`.
    async fn commit(&mut self, committed: &mut u64) -> Result<(), FeedError> {
        let Self::Kept(cursor) = self else { return Ok(()) };
        let read = cursor.poller().last_sequence();
        if read != *committed {
            cursor.commit().await?;
            *committed = read;
        }
        Ok(())
    }
}

fn filter(arguments: &Arguments) -> Filter {
    let mut filter = Filter::new();
    for id in &arguments.instance {
        filter = filter.instance(id);
    }
    if let Some(prefix) = &arguments.prefix {
        filter = filter.prefix(prefix);
    }
    for name in &arguments.name {
        filter = filter.orchestration(name);
    }
    for kind in &arguments.kind {
        filter = filter.kind(*kind);
    }
    filter
}

fn show(event: &Event, output: &mut Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.json_line(&Line {
            sequence: event.sequence,
            at_ms: event.at_ms,
            instance: &event.instance,
            execution_id: event.execution_id,
            kind: event.kind.to_string(),
            event_id: event.event_id,
            orchestration: event.orchestration.as_deref(),
            token: event.token,
        });
    }
    let id = event.event_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let (head, kind) = (
        format!("{:>9}  {}  ", event.sequence, clock::exact_stamp(event.at_ms)),
        event.kind.to_string(),
    );
    // What cannot be foreseen comes last, where a terminal may end.
    let text = format!(
        "{head}{kind:<20}  {:<32}  {}:{id:<5} {}",
        printable(&event.instance),
        event.execution_id,
        output::or_dash(event.orchestration.as_deref()),
    );
    output.cut_line(text.trim_end(), head.len()..head.len() + kind.len(), colour(event.kind))
}

fn colour(kind: Kind) -> Option<Colour> {
    Some(match kind {
        Kind::Completed => Colour::Green,
        Kind::Failed | Kind::Cancelled | Kind::ActivityFailed | Kind::SubOrchestrationFailed => Colour::Red,
        Kind::Started | Kind::ContinuedAsNew => Colour::Cyan,
        Kind::CustomStatus | Kind::KeyValueSet | Kind::KeyValueCleared | Kind::KeyValuesCleared => Colour::Yellow,
        Kind::Deleted | Kind::Pruned => Colour::Magenta,
        _ => return None,
    })
}

fn tell_loss(cursor: u64, first: u64, output: &mut Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.json_line(&Loss {
            trimmed_after: cursor,
            first,
        });
    }
    let (from, upto) = (cursor + 1, first - 1);
    output.line(format_args!("{:>9}  events {from} to {upto} have been trimmed", "…"))
}
