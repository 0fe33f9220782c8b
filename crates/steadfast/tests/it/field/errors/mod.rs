//! Suite: every error, in production's configuration. Nothing that was acknowledged ends Failed, and afterwards all
//! completes.
//!
//! The roles and grants are those of docs/operations.md, attempts and leases are duroxide's defaults. The short form breaks
//! every object of the catalogue for 0.1 s. The long form (`STEADFAST_FIELD_FORM=long`) is the product of objects,
//! SQLSTATEs and 0.1 and 3 s, and one trouble of each object lasts 60 s, which is longer than both leases.
//! `STEADFAST_FIELD_SECONDS` chooses other lengths for all cells, `STEADFAST_FIELD_PLACES` how many stores are under load at
//! once.

#![allow(clippy::print_stdout, reason = "it says how many cells ran")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use duroxide::runtime::RuntimeOptions;
use tokio::sync::Semaphore;
use tokio_postgres::Client;

mod cells;
pub(crate) mod documented;
pub(crate) mod load;

use super::form::is_long;
use cells::{Cell, SQLSTATES};
use documented::Documented;
use load::{Load, Verdict};

/// Between two cells of the short form.
const CALM: Duration = Duration::from_millis(150);
/// Stores of the long form. Most of the time each of them waits for its trouble to end.
const PLACES: usize = 32;
/// Longer than both leases.
const LONGEST: Duration = Duration::from_secs(60);

/// How the suite runs.
struct Form {
    lasting: Vec<Duration>,
    /// How long the first trouble of each object lasts as well.
    longest: Option<Duration>,
    places: usize,
    /// The whole product, and everything has ended between two cells.
    long: bool,
    /// The load of one place.
    starters: usize,
    pause: Duration,
    pool_size: usize,
    /// Installing takes a machine's time: not all do it at once.
    opening: Semaphore,
}

impl Form {
    fn chosen() -> Self {
        let long = is_long();
        let chosen = std::env::var("STEADFAST_FIELD_SECONDS").ok();
        let longest = (long && chosen.is_none()).then_some(LONGEST);
        let seconds = chosen.unwrap_or_else(|| if long { "0.1,3".to_owned() } else { "0.1".to_owned() });
        let parse = |text: &str| Duration::from_secs_f64(text.trim().parse().expect("a number of seconds"));
        let places = std::env::var("STEADFAST_FIELD_PLACES").ok();
        Self {
            lasting: seconds.split(',').map(parse).collect(),
            longest,
            places: places.map_or(if long { PLACES } else { 3 }, |n| {
                n.parse().expect("a number of places")
            }),
            long,
            starters: if long { 3 } else { 12 },
            pause: Duration::from_millis(if long { 1500 } else { 20 }),
            pool_size: if long { 3 } else { 10 },
            opening: Semaphore::new(3),
        }
    }
}

/// All cells of this form for one place, in the same order in every place.
async fn all_cells(place: &Documented, client: &Client, form: &Form) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (n, function) in cells::functions(client).await.into_iter().enumerate() {
        cells.push(function.renamed());
        if form.long {
            cells.push(function.forbidden());
            cells.extend(SQLSTATES.iter().map(|code| function.raises(code)));
        } else {
            // Over all functions every code has its turn.
            cells.push(function.raises(SQLSTATES[n % SQLSTATES.len()]));
        }
    }
    cells.extend(cells::tables(client, &place.role("steadfast_worker")).await);
    cells.extend(cells::others(client, place).await);
    cells
}

/// What a place has done.
#[derive(Default)]
struct Done {
    objects: BTreeMap<String, Object>,
    cells: usize,
    acknowledged: usize,
    failed: Vec<String>,
}

/// What happened to an object.
#[derive(Default)]
struct Object {
    cells: usize,
    /// The longest time from the end of a trouble until everything had ended, and which that was.
    longest: (Duration, String),
}

/// One store under load, on which every so manieth cell happens, one after the other.
async fn one_place(number: usize, form: Arc<Form>, done: Arc<Mutex<Done>>) {
    let turn = form.opening.acquire().await.expect("it is not closed");
    let place = Documented::create().await;
    let client = place.superuser().await;
    let worker = place
        .builder("steadfast_worker")
        .pool_size(form.pool_size)
        .connect()
        .await
        .expect("open as the worker");
    let (provider, options) = (Arc::new(worker.clone()), RuntimeOptions::default());
    let mut load = Load::begin_with(provider, options, form.pause, form.starters).await;
    drop(turn);
    load.reached(10).await;
    let cells = all_cells(&place, &client, &form).await;
    for (n, cell) in cells.iter().enumerate().skip(number).step_by(form.places) {
        let is_first = n == 0 || cells[n - 1].row != cell.row;
        for lasting in form.lasting.iter().chain(form.longest.iter().filter(|_| is_first)) {
            run(&place, &client, cell, *lasting).await;
            let over = Instant::now();
            if form.long {
                load.judge().await;
            } else {
                tokio::time::sleep(CALM).await;
            }
            let mut done = done.lock().unwrap();
            done.cells += 1;
            if done.cells.is_multiple_of(100) {
                eprintln!("{} cells ran", done.cells);
            }
            let object = done.objects.entry(cell.row.clone()).or_default();
            object.cells += 1;
            let after = (over.elapsed(), format!("{}, {lasting:?}", cell.what));
            object.longest = std::mem::take(&mut object.longest).max(after);
        }
    }
    let Verdict { acknowledged, failed } = load.settle().await;
    worker.close().await;
    place.remove().await;
    let mut done = done.lock().unwrap();
    done.acknowledged += acknowledged;
    done.failed
        .extend(failed.into_iter().map(|text| format!("place {number}: {text}")));
}

async fn run(place: &Documented, client: &Client, cell: &Cell, lasting: Duration) {
    for (sql, pause) in [(&cell.breaks, lasting), (&cell.mends, Duration::ZERO)] {
        let sql = place.named(sql);
        let told = client.batch_execute(&sql).await;
        told.unwrap_or_else(|error| panic!("{cell:?}: {error:?}"));
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_fails_whatever_the_server_answers() {
    let form = Arc::new(Form::chosen());
    let done = Arc::<Mutex<Done>>::default();
    let places = (0..form.places).map(|n| tokio::spawn(one_place(n, Arc::clone(&form), Arc::clone(&done))));
    for place in futures_util::future::join_all(places).await {
        place.expect("no panic");
    }
    let done = done.lock().unwrap();
    println!(
        "every error: {} cells of {:?} in {} places, {} acknowledged, {} not completed",
        done.cells,
        form.lasting,
        form.places,
        done.acknowledged,
        done.failed.len()
    );
    tell(&form, &done);
    assert!(done.cells > 100 && done.acknowledged > 0);
    assert!(done.failed.is_empty(), "{:#?}", done.failed);
}

/// The report of this run.
fn tell(form: &Form, done: &Done) {
    let mut text = String::from("\n## Every error, in production's configuration\n\n");
    let _ = writeln!(
        text,
        "{} cells of {:?}, {} stores under load at once. {} acknowledged starts, {} of them did not complete.\n",
        done.cells,
        form.lasting,
        form.places,
        done.acknowledged,
        done.failed.len()
    );
    text.push_str("After each cell everything had to end. The longest that this took:\n\n");
    text.push_str("| object | cells | longest, s | after |\n|---|---|---|---|\n");
    for (object, Object { cells, longest }) in &done.objects {
        let (after, what) = longest;
        let _ = writeln!(text, "| {object} | {cells} | {:.1} | {what} |", after.as_secs_f64());
    }
    super::form::report(&text);
}
