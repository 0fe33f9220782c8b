//! Files that were changed by whatever: cut off, bytes turned over, pages filled with rubbish. Opening, reading and working
//! end with an error that says what is wrong, or work; a caged process never dies of them.

use std::os::unix::fs::FileExt;
use std::path::Path;

use duroxide::Client;
use duroxide::providers::Provider;
use steadfast::embedded::EmbeddedProvider;

use super::super::form::is_long;
use super::child::probe;
use super::{CAGE, Cells, MIB};

/// What is done to a copy of the file.
#[derive(Debug, Clone, Copy)]
enum Mutation {
    Cut(u64),
    Turned { at: u64, count: u64 },
    Rubbish { page: u64 },
}

const PAGE: u64 = 4096;

/// Mutations of a file of so many bytes: the same ones each time.
fn mutations(bytes: u64) -> Vec<Mutation> {
    let mut all = vec![
        Mutation::Cut(0),
        Mutation::Cut(50),
        Mutation::Cut(100),
        Mutation::Cut(PAGE),
        Mutation::Cut(bytes / 2),
        Mutation::Cut(bytes - 1),
    ];
    // The header says how large pages are, how many there are, where free ones begin, which text it holds.
    all.extend([16, 18, 20, 24, 28, 32, 36, 40, 44, 52, 56, 68, 92].map(|at| Mutation::Turned { at, count: 4 }));
    let (rounds, mut seed) = (if is_long() { 200 } else { 12 }, 0x2545_f491_4f6c_dd1d_u64);
    for round in 0..rounds {
        // Xorshift: no randomness that a failure could not be found again with.
        for shift in [13, -7, 17] {
            seed ^= if shift > 0 { seed << shift } else { seed >> -shift };
        }
        let at = seed % bytes;
        all.push(match round % 3 {
            0 => Mutation::Turned { at, count: 1 },
            1 => Mutation::Turned { at, count: 64 },
            _ => Mutation::Rubbish { page: at / PAGE },
        });
    }
    all
}

fn mutate(path: &Path, mutation: Mutation) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open the copy");
    match mutation {
        Mutation::Cut(bytes) => file.set_len(bytes).expect("cut it"),
        Mutation::Turned { at, count } => {
            for at in at..at + count {
                let mut byte = [0];
                if file.read_at(&mut byte, at).expect("read") == 1 {
                    file.write_all_at(&[!byte[0]], at).expect("write");
                }
            }
        }
        Mutation::Rubbish { page } => {
            let rubbish: Vec<u8> = (0..PAGE).map(|n| (n * 31 + page * 7) as u8).collect();
            file.write_all_at(&rubbish, page * PAGE).expect("write");
        }
    }
}

/// A file with histories and with things to do.
async fn fill(path: &Path) {
    let store = std::sync::Arc::new(EmbeddedProvider::open(path).await.expect("open"));
    let client = Client::new(std::sync::Arc::clone(&store) as std::sync::Arc<dyn Provider>);
    for n in 0..40 {
        let input = "x".repeat(if n % 10 == 0 { MIB } else { 500 * n });
        let started = client.start_orchestration(format!("instance {n}"), "wait", input).await;
        started.expect("start");
    }
    store.close().await;
}

pub(super) async fn files(cells: &mut Cells) {
    let folder = tempfile::tempdir().expect("a folder");
    let sound = folder.path().join("sound.db");
    fill(&sound).await;
    let bytes = std::fs::metadata(&sound).expect("its size").len();
    let untouched = probe(&sound.clone(), CAGE);
    assert_eq!(untouched.said, "worked");
    let (mut ran, mut refused, mut highest) = (0, 0, untouched.peak);
    for mutation in mutations(bytes) {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("store.db");
        std::fs::copy(&sound, &path).expect("copy it");
        mutate(&path, mutation);
        let probed = tokio::task::spawn_blocking(move || probe(&path, CAGE))
            .await
            .expect("probe it");
        assert!(
            probed.status.success(),
            "{mutation:?}: {}: {}",
            probed.status,
            probed.said
        );
        assert!(
            probed.peak > 0 && probed.peak <= CAGE,
            "{mutation:?}: peak {}",
            probed.peak
        );
        assert!(
            ["worked", "not opened: ", "opened, but "]
                .iter()
                .any(|begin| probed.said.starts_with(begin)),
            "{mutation:?}: {}",
            probed.said
        );
        highest = highest.max(probed.peak);
        ran += 1;
        refused += usize::from(probed.said != "worked");
    }
    // A test that changes nothing would find nothing.
    assert!(refused >= 10, "{refused} of {ran} were noticed");
    cells.apart(
        format!("{ran} changed files, {refused} of them refused in part or whole"),
        highest,
    );
}
