//! Timers: never early, together, and of many instances at once.

use std::time::{Duration, Instant};

use duroxide::{EventKind, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, count, orchestrations};
use crate::harness::Store;

pub(super) async fn a_timer_fires_when_due(store: &Store) {
    const DELAY: Duration = Duration::from_millis(400);
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("nap", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_timer(DELAY).await;
            Ok("awake".to_owned())
        }),
    )
    .await;

    let begun = Instant::now();
    assert_eq!(stage.run("n", "nap", "").await, "awake");
    assert!(begun.elapsed() >= DELAY, "it fired early");

    let history = stage.history("n").await;
    assert_sound(&history);
    let created = history.iter().find_map(|event| match event.kind {
        EventKind::TimerCreated { fire_at_ms } => Some((event.event_id, fire_at_ms)),
        _ => None,
    });
    let fired = history.iter().find_map(|event| match event.kind {
        EventKind::TimerFired { fire_at_ms } => Some((event.source_event_id?, fire_at_ms)),
        _ => None,
    });
    assert!(created.is_some());
    assert_eq!(created, fired);
    stage.stop().await;
}

pub(super) async fn several_timers_are_due_together(store: &Store) {
    const TIMERS: usize = 12;
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("alarm", |ctx: OrchestrationContext, _: String| async move {
            let timers = (0..TIMERS)
                .map(|_| ctx.schedule_timer(Duration::from_millis(300)))
                .collect();
            Ok(ctx.join(timers).await.len().to_string())
        }),
    )
    .await;

    assert_eq!(stage.run("a", "alarm", "").await, TIMERS.to_string());
    let history = stage.history("a").await;
    assert_sound(&history);
    assert_eq!(count(&history, "TimerCreated"), TIMERS);
    assert_eq!(count(&history, "TimerFired"), TIMERS);
    stage.stop().await;
}

pub(super) async fn timers_of_many_instances_are_due_together(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("nap", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_timer(Duration::from_millis(500)).await;
            ctx.schedule_timer(Duration::ZERO).await;
            Ok(input)
        }),
    )
    .await;

    for number in 0..20 {
        stage.begin(&format!("n-{number}"), "nap", &number.to_string()).await;
    }
    for number in 0..20 {
        assert_eq!(stage.output(&format!("n-{number}")).await, number.to_string());
    }
    stage.stop().await;
}

pub(super) async fn the_shorter_timer_fires_first(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("hurry", |ctx: OrchestrationContext, _: String| async move {
            let long = ctx.schedule_timer(Duration::from_secs(3_600));
            let short = ctx.schedule_timer(Duration::from_millis(200));
            Ok(if ctx.select2(long, short).await.is_second() {
                "short"
            } else {
                "long"
            }
            .to_owned())
        }),
    )
    .await;

    assert_eq!(stage.run("h", "hurry", "").await, "short");
    assert_eq!(count(&stage.history("h").await, "TimerFired"), 1);
    stage.stop().await;
}
