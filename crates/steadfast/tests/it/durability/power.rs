//! Lost power, rebuilt from a record of writes and syncs: whatever was acknowledged is there, and nothing is there by halves.

use std::path::Path;
use std::sync::Arc;

use duroxide::providers::Provider;
use power_loss_vfs::{Image, Recorder};
use steadfast::embedded::{Durability, EmbeddedProvider};

use super::toil::{assert_sound, missing, toil};
use crate::op::scene::start;

const SEED: u64 = 0x5EED_0003;

/// A watched folder and a provider on a file in it.
pub(super) async fn watched(
    durability: Durability,
    settings: impl FnOnce(steadfast::embedded::Builder) -> steadfast::embedded::Builder,
) -> (tempfile::TempDir, Arc<Recorder>, EmbeddedProvider) {
    power_loss_vfs::install().expect("the layer is in place");
    let folder = tempfile::tempdir().expect("a folder");
    let recorder = Recorder::watch(folder.path());
    let builder = EmbeddedProvider::builder(folder.path().join("store.db")).durability(durability);
    let provider = settings(builder).open().await.expect("open the file");
    (folder, recorder, provider)
}

/// Works a while, with the log folded back into the file in every way that SQLite knows.
async fn work(durability: Durability) -> Arc<Recorder> {
    let (folder, recorder, provider) = watched(durability, |builder| builder).await;
    let file = rusqlite::Connection::open(folder.path().join("store.db")).expect("open the file");
    for (phase, checkpoint) in (0..).zip(["PASSIVE", "FULL", "RESTART", "TRUNCATE"]) {
        let (provider, recorder) = (&provider, &recorder);
        let hands = (0..3).map(|hand| async move {
            let numbers = (0..4).map(move |n| phase * 100 + n * 3 + hand);
            toil(provider, numbers, &|mark| recorder.note(mark)).await;
        });
        futures_util::future::join_all(hands).await;
        let sql = format!("PRAGMA wal_checkpoint({checkpoint})");
        file.query_row(&sql, [], |_| Ok(())).expect("a checkpoint");
    }
    provider.close().await;
    recorder
}

/// Opens an image, and says what it lacks.
async fn lacks(image: &Image, folder: &Path) -> Vec<u64> {
    image.write_to(folder).expect("write the image");
    let path = folder.join("store.db");
    let provider = match EmbeddedProvider::open(&path).await {
        Ok(provider) => provider,
        Err(error) => panic!("image {:?} does not open: {error}", image.point),
    };
    provider.close().await;
    let file = rusqlite::Connection::open(&path).expect("open the image");
    assert_sound(&file);
    missing(&file, &image.noted)
}

/// Looks at every image: how many there were, and how many lacked something that was acknowledged.
fn look_at_all(recorder: &Recorder, per_point: u32) -> (u32, u32) {
    println!("seed {SEED}");
    let (mut images, mut lacking) = (0, 0);
    recorder.for_each_image(SEED, per_point, |image| {
        let folder = tempfile::tempdir().expect("a folder");
        let lacks =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(lacks(image, folder.path())));
        images += 1;
        lacking += u32::from(!lacks.is_empty());
    });
    println!("{images} images, {lacking} lack something that was acknowledged");
    (images, lacking)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_durability_survives_lost_power() {
    let recorder = work(Durability::Full).await;
    let (images, lacking) = look_at_all(&recorder, 5);
    assert!(images > 200, "there were too few syncs: {images} images");
    assert_eq!(lacking, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn normal_durability_goes_back_to_an_earlier_moment_and_no_further() {
    let recorder = work(Durability::Normal).await;
    // Each image is whole, which is looked at; the documentation says that they may lack acknowledged operations.
    let (_, lacking) = look_at_all(&recorder, 5);
    assert!(lacking > 0, "`Normal` lost nothing: then its documentation is wrong");
}

async fn syncs_of(durability: Durability, calls: u32, together: bool) -> usize {
    let (_folder, recorder, provider) = watched(durability, |builder| builder).await;
    let before = recorder.syncs("-wal");
    let enqueue = |n: u32| provider.enqueue_for_orchestrator(start(&format!("i{n}")), None);
    if together {
        let all = futures_util::future::join_all((0..calls).map(enqueue)).await;
        assert!(all.iter().all(Result::is_ok));
    } else {
        for n in 0..calls {
            enqueue(n).await.expect("enqueue");
        }
    }
    let syncs = recorder.syncs("-wal") - before;
    provider.close().await;
    syncs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_durability_syncs_every_batch() {
    let one_by_one = syncs_of(Durability::Full, 20, false).await;
    let together = syncs_of(Durability::Full, 200, true).await;
    println!("20 calls one by one: {one_by_one} syncs; 200 at once: {together}");
    assert!(one_by_one >= 20, "an acknowledged batch without a sync: {one_by_one}");
    assert!((1..200).contains(&together), "200 calls at once: {together} syncs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn normal_durability_syncs_no_batch() {
    assert_eq!(syncs_of(Durability::Normal, 20, false).await, 0);
}
