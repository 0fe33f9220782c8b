//! Load while connections or the whole server go away: what was acknowledged is there, and all of it ends once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use duroxide::runtime::registry::{
    ActivityRegistry, ActivityRegistryBuilder, OrchestrationRegistry, OrchestrationRegistryBuilder,
};
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext};
use private_postgres::{Cluster, Options};

use crate::harness::database_url;
use crate::op::scene::{Scene, output, runtime};

fn activities() -> ActivityRegistryBuilder {
    ActivityRegistry::builder().register("echo", |_: ActivityContext, input: String| async move { Ok(input) })
}

/// Two steps side by side, then one.
fn orchestrations() -> OrchestrationRegistryBuilder {
    OrchestrationRegistry::builder().register("diamond", |ctx: OrchestrationContext, input: String| async move {
        let sides = vec![
            ctx.schedule_activity("echo", format!("{input}l")),
            ctx.schedule_activity("echo", format!("{input}r")),
        ];
        let mut both = String::new();
        for side in ctx.join(sides).await {
            both.push_str(&side?);
        }
        ctx.schedule_activity("echo", both).await
    })
}

/// Two runtimes, each with a provider of its own, and starts that go on until they are told to stop.
struct Load {
    running: Vec<Arc<Runtime>>,
    client: Client,
    stop: Arc<AtomicBool>,
    starter: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    async fn begin(scene: &Scene) -> Self {
        let options = || RuntimeOptions {
            orchestration_concurrency: 4,
            worker_concurrency: 4,
            // What dies with a connection is taken over soon.
            worker_lock_timeout: Duration::from_secs(5),
            worker_lock_renewal_buffer: Duration::from_secs(2),
            ..RuntimeOptions::default()
        };
        let second = scene.another().await;
        let (first, client) = runtime(&scene.provider, activities(), orchestrations(), options()).await;
        let (second, _) = runtime(&second, activities(), orchestrations(), options()).await;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, starting) = (Arc::clone(&stop), client.clone());
        let starter = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let instance = format!("i{n}");
                if starting
                    .start_orchestration(&instance, "diamond", &instance)
                    .await
                    .is_ok()
                {
                    acknowledged.push(instance);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            acknowledged
        });
        Self {
            running: vec![first, second],
            client,
            stop,
            starter,
        }
    }

    /// Everything that was acknowledged must end, once.
    async fn settle(self, scene: &Scene) {
        self.stop.store(true, Ordering::SeqCst);
        let acknowledged = self.starter.await.expect("no panic");
        println!("{} starts were acknowledged", acknowledged.len());
        assert!(acknowledged.len() > 20, "that is no load");
        for instance in &acknowledged {
            assert_eq!(output(&self.client, instance).await, format!("{instance}l{instance}r"));
        }
        for running in self.running {
            running.shutdown(Some(2_000)).await;
        }
        assert_complete(scene, &acknowledged).await;
    }
}

/// Every instance has started once, has three completions and one end, and nothing is left of any.
async fn assert_complete(scene: &Scene, acknowledged: &[String]) {
    let sql = "SELECT i.instance_id, i.status,
                      (SELECT string_agg(e.kind::text, ',' ORDER BY e.kind) FROM sf_event e
                       WHERE e.instance_key = i.instance_key)
               FROM sf_instance i";
    let rows = scene.sql().await.query(sql, &[]).await.expect("look at the instances");
    let instances: HashMap<String, (String, Option<String>)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    for instance in acknowledged {
        let (status, kinds) = instances.get(instance).unwrap_or_else(|| panic!("{instance} is gone"));
        // Started, completed; three scheduled and three completed.
        assert_eq!(
            (status.as_str(), kinds.as_deref()),
            ("Completed", Some("1,2,10,10,10,11,11,11")),
            "{instance}"
        );
    }
    for table in ["sf_work", "sf_quarantine"] {
        assert_eq!(scene.rows(table).await, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immediate_stop_under_load_loses_and_doubles_nothing() {
    let options = Options::under(env!("CARGO_TARGET_TMPDIR"));
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(options))
        .await
        .expect("no panic");
    let cluster = Arc::new(cluster.expect("a cluster of its own"));
    let scene = Scene::at(&cluster.url(), &cluster.url(), |builder| builder).await;
    let load = Load::begin(&scene).await;
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let server = Arc::clone(&cluster);
        let restarted = tokio::task::spawn_blocking(move || {
            // The last time there is not even a process to be told.
            if round == 2 {
                server.kill()
            } else {
                server.stop_immediate()
            }?;
            server.start_again()
        });
        restarted.await.expect("no panic").expect("the server is back");
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    load.settle(&scene).await;
    scene.close().await;
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .expect("the cluster goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_backends_under_load_lose_and_double_nothing() {
    let name = crate::harness::fresh_schema();
    let url = format!("{}?application_name={name}", database_url());
    let scene = Scene::at(&url, &url, |builder| builder).await;
    let load = Load::begin(&scene).await;
    let hand = crate::harness::raw().await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM (
        SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY random() LIMIT 2) victims";
    let mut terminated: i64 = 0;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        terminated += hand
            .query_one(terminate, &[&name])
            .await
            .expect("terminate")
            .get::<_, i64>(0);
    }
    println!("{terminated} backends were terminated");
    assert!(terminated > 30, "only {terminated} backends were there");
    load.settle(&scene).await;
    scene.close().await;
}
