//! Suite: faults cease, no input comes, and everything must come to rest.
//!
//! A cell is one trouble on a store of its own. While it lasts, work is sent, an event is written, a provider is opened. Then
//! the trouble ends, and nobody does anything any more. What was sent is taken by those who wait, what was written is seen
//! by a waiting reader, what is opening opens or says why not, and on the server nothing runs, waits or hangs: one listener
//! and the pool for each provider that lives. The long form (`STEADFAST_FIELD_FORM=long`) goes through many lengths of
//! trouble.

mod ground;
mod trouble;

use std::time::Duration;

use futures_util::StreamExt as _;

use super::form::{is_long, report};
use ground::Ground;
use trouble::Trouble;

/// Longer than the safety interval of 15 s that may be what finds an item; much less than any timeout of minutes.
const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_to_rest_when_trouble_ceases() {
    let lengths: &[u64] = if is_long() {
        &[50, 300, 1_000, 3_000, 6_500, 12_000, 200, 700, 2_000, 20_000]
    } else {
        &[1_200]
    };
    let cells = lengths
        .iter()
        .flat_map(|ms| Trouble::ALL.map(|trouble| (trouble, Duration::from_millis(*ms))));
    let cells: Vec<_> = cells.collect();
    let ran: Vec<String> = futures_util::stream::iter(cells)
        .map(|(trouble, length)| cell(trouble, length))
        .buffer_unordered(3)
        .collect()
        .await;
    for line in &ran {
        report(line);
    }
    report(&format!("silence after trouble: {} cells ran", ran.len()));
    assert_eq!(ran.len(), lengths.len() * Trouble::ALL.len());
}

async fn cell(trouble: Trouble, length: Duration) -> String {
    let ground = Ground::prepare(trouble).await;
    let mut waiting = ground.wait().await;
    let begun = trouble.begin(&ground).await;
    let passes = async {
        tokio::time::sleep(length).await;
        begun.end(&ground).await;
    };
    tokio::join!(ground.input(trouble), passes);
    // Silence.
    let late = waiting.rest(trouble).await;
    ground.rests(trouble).await;
    drop(waiting);
    ground.close().await;
    format!(
        "| {trouble:?} for {} ms | turn {} ms, activity {} ms, event {} ms after the last input |",
        length.as_millis(),
        late[0],
        late[1],
        late[2]
    )
}
