//! Any name that PostgreSQL can hold works; schemas do not see each other; removing one takes ours and only ours.

use std::time::Duration;

use duroxide::providers::{Provider, TagFilter};
use steadfast::postgres::{Migrations, OpenErrorKind};

use super::catalog;
use super::place::{self, Database, LEASE, quoted};
use crate::harness::{database_url, fresh_schema, raw};

#[tokio::test]
async fn unusual_names_work_from_install_to_removal() {
    let random = &fresh_schema()[3..];
    let long = format!("L{random:x<62}");
    assert_eq!(long.len(), 63);
    let long_unicode = format!("{:é<31}z", "");
    assert_eq!(long_unicode.len(), 63);
    let names = [
        "MixedCase".to_owned(),
        "with \"quotes\" and spaces".to_owned(),
        " leading and trailing ".to_owned(),
        "схема-架构-🦀".to_owned(),
        "o'clock".to_owned(),
        "semi;colon, comma".to_owned(),
        r"back\slash".to_owned(),
        "$users".to_owned(),
        "$$".to_owned(),
        "select".to_owned(),
        "%s {} ?1 $1".to_owned(),
        "a.b".to_owned(),
        "pgx".to_owned(),
        "PG_upper".to_owned(),
        "1digit".to_owned(),
        long,
        long_unicode,
    ];
    let database = Database::create().await;
    let client = database.raw().await;
    for name in names {
        let open = async |migrations| {
            place::builder(&database.url, &name)
                .migrations(migrations)
                .connect()
                .await
                .unwrap_or_else(|error| panic!("{name:?}: {error}"))
        };
        let provider = open(Migrations::Apply).await;
        assert_eq!(provider.schema(), name);
        place::round(&provider, "first").await;
        provider.close().await;
        let provider = open(Migrations::Verify).await;
        assert_eq!(provider.read("first").await.unwrap().len(), 3, "{name:?}");
        place::round(&provider, "second").await;
        provider.close().await;
        let provider = open(Migrations::Apply).await;
        let count: i64 = client
            .query_one(&format!("SELECT count(*) FROM {}.sf_instances", quoted(&name)), &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(count, 2, "{name:?}");
        provider
            .cleanup_schema()
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error:?}"));
        provider.close().await;
        let left = client
            .query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&name])
            .await
            .unwrap();
        assert!(left.is_empty(), "{name:?}: the schema that we made is gone");
    }
}

#[tokio::test]
async fn the_listener_works_under_a_name_that_needs_quotes() {
    use steadfast::postgres::{LongPoll, PostgresProvider};
    let name = format!("Li'st \"en\" {}", fresh_schema());
    let open = async || {
        PostgresProvider::builder(&database_url())
            .schema(&name)
            .pool_size(2)
            // No fallback within the test: only a hint can wake the sleeper in time.
            .long_poll(LongPoll {
                fallback_poll_interval: Duration::from_secs(600),
                ..LongPoll::default()
            })
            .connect()
            .await
            .expect("open")
    };
    let (sleeper, maker) = (open().await, open().await);
    let sleeping = tokio::spawn({
        let sleeper = sleeper.clone();
        async move {
            sleeper
                .fetch_orchestration_item(LEASE, Duration::from_secs(60), None)
                .await
        }
    });
    let client = raw().await;
    let listening =
        "SELECT 1 FROM pg_stat_activity WHERE query ILIKE '%listen%' AND query LIKE $1 AND pid <> pg_backend_pid()";
    let pattern = format!("%{}%", &name[12..]);
    for _ in 0..200 {
        if !client.query(listening, &[&pattern]).await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    maker
        .enqueue_for_orchestrator(place::start("heard"), None)
        .await
        .unwrap();
    let (item, _, _) = sleeping.await.unwrap().unwrap().expect("the sleeper was told");
    assert_eq!(item.instance, "heard");
    sleeper.close().await;
    maker.close().await;
}

#[tokio::test]
async fn names_that_cannot_work_are_refused_before_anything_is_asked() {
    let names = [
        String::new(),
        "x".repeat(64),
        format!("{:é<32}", ""),
        "nul\0inside".to_owned(),
        "line\nbreak".to_owned(),
        "t\nCREATE ROLE evil;\n--".to_owned(),
        "escape\u{1b}[2J".to_owned(),
        "next\u{85}line".to_owned(),
        "other\u{202e}way".to_owned(),
        "pg_mine".to_owned(),
        "pg_".to_owned(),
        "pg_catalog".to_owned(),
        "information_schema".to_owned(),
        // Even quoted, a search path takes it for the schema of the current user.
        "$user".to_owned(),
    ];
    for name in names {
        // Nothing listens there: the name is judged first.
        let error = place::builder("postgres://nobody@127.0.0.1:1/none", &name)
            .connect()
            .await
            .expect_err("the name cannot work");
        assert_eq!(error.kind(), OpenErrorKind::InvalidName, "{name:?}: {error}");
        let printed = steadfast::postgres::schema_sql(&name).expect_err("nor can it be printed");
        assert_eq!(printed.kind(), OpenErrorKind::InvalidName, "{name:?}");
    }
}

#[tokio::test]
async fn public_works_and_only_ours_is_removed_from_it() {
    let database = Database::create().await;
    let client = database.raw().await;
    client
        .batch_execute(
            "CREATE TABLE public.orders (id bigint PRIMARY KEY, note text);
             INSERT INTO public.orders VALUES (1, 'keep');
             CREATE VIEW public.sf_notes AS SELECT note FROM public.orders;
             CREATE FUNCTION public.sf_mine() RETURNS int LANGUAGE sql AS 'SELECT 7';",
        )
        .await
        .unwrap();
    let before = catalog::definitions(&client, "public").await;
    let provider = place::builder(&database.url, "public")
        .connect()
        .await
        .expect("open in public");
    place::round(&provider, "i").await;
    provider.cleanup_schema().await.expect("clean up");
    provider.close().await;
    assert_eq!(
        catalog::definitions(&client, "public").await,
        before,
        "only ours has gone"
    );
    let row = client
        .query_one("SELECT note, sf_mine() FROM public.orders", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("keep", 7));
    // And again, from nothing.
    let provider = place::builder(&database.url, "public")
        .connect()
        .await
        .expect("open again");
    place::round(&provider, "i").await;
    provider.close().await;
}

#[tokio::test]
async fn a_schema_goes_only_when_we_made_it_and_it_is_empty() {
    let client = raw().await;
    let exists = async |schema: &str| {
        let rows = client
            .query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema])
            .await
            .unwrap();
        !rows.is_empty()
    };
    for (made_by_us, table_of_a_user) in [(true, false), (true, true), (false, false), (false, true)] {
        let schema = fresh_schema();
        if !made_by_us {
            client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.unwrap();
        }
        let provider = place::builder(&database_url(), &schema).connect().await.expect("open");
        if table_of_a_user {
            client
                .batch_execute(&format!("CREATE TABLE {schema}.orders (id bigint)"))
                .await
                .unwrap();
        }
        provider.cleanup_schema().await.expect("clean up");
        provider
            .cleanup_schema()
            .await
            .expect("a second time there is nothing to do");
        provider.close().await;
        assert_eq!(
            exists(&schema).await,
            !made_by_us || table_of_a_user,
            "made by us: {made_by_us}, table of a user: {table_of_a_user}"
        );
        if exists(&schema).await {
            let left = catalog::definitions(&client, &schema).await;
            let ours: Vec<_> = left.iter().filter(|line| line.contains("sf_")).collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
    }
}

#[tokio::test]
async fn a_removal_that_a_users_view_forbids_drops_nothing() {
    let schema = fresh_schema();
    let client = raw().await;
    let provider = place::builder(&database_url(), &schema).connect().await.expect("open");
    client
        .batch_execute(&format!(
            "CREATE VIEW {schema}.report AS SELECT instance_id FROM {schema}.sf_instance"
        ))
        .await
        .unwrap();
    let before = catalog::rows(&client, &schema).await;
    provider
        .cleanup_schema()
        .await
        .expect_err("a user's view stands on our table");
    assert_eq!(catalog::rows(&client, &schema).await, before);
    place::round(&provider, "still there").await;
    provider.close().await;
}

#[tokio::test]
async fn schemas_of_one_database_do_not_see_each_others_work() {
    let schemas = [fresh_schema(), fresh_schema(), format!("Mixed {}", fresh_schema())];
    let mut providers = Vec::new();
    for schema in &schemas {
        providers.push(place::builder(&database_url(), schema).connect().await.expect("open"));
    }
    providers[1]
        .enqueue_for_orchestrator(place::start("same id"), None)
        .await
        .unwrap();
    providers[1]
        .enqueue_for_worker(place::activity("same id", 2))
        .await
        .unwrap();
    for other in [&providers[0], &providers[2]] {
        let turn = other
            .fetch_orchestration_item(LEASE, Duration::ZERO, None)
            .await
            .unwrap();
        assert!(turn.is_none(), "{turn:?}");
        let work = other
            .fetch_work_item(LEASE, Duration::ZERO, None, &TagFilter::Any)
            .await
            .unwrap();
        assert!(work.is_none(), "{work:?}");
        let admin = other.as_management_capability().expect("admin");
        assert!(admin.list_instances().await.unwrap().is_empty());
        let depths = admin.get_queue_depths().await.unwrap();
        assert_eq!((depths.orchestrator_queue, depths.worker_queue), (0, 0));
    }
    let (item, token, _) = providers[1]
        .fetch_orchestration_item(LEASE, Duration::ZERO, None)
        .await
        .unwrap()
        .expect("its own work");
    assert_eq!(item.instance, "same id");
    let stolen = providers[0]
        .ack_orchestration_item(&token, 1, vec![], vec![], vec![], place::named(), vec![])
        .await;
    assert!(stolen.is_err(), "a token is good in its own schema only");
    providers[0].cleanup_schema().await.expect("clean up");
    providers[1]
        .ack_orchestration_item(
            &token,
            1,
            vec![place::event("same id", 1, 1, place::started())],
            vec![],
            vec![],
            place::completed(),
            vec![],
        )
        .await
        .expect("removing one schema leaves the others alone");
    for provider in providers {
        provider.close().await;
    }
}
