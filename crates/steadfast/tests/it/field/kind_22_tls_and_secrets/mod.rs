//! Kind 22: Connecting refuses what libpq refuses, and says why; secrets stay where they are.
//!
//! The certificates and keys in `testdata` are made for these tests and guard nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use private_postgres::{Cluster, Options};
use steadfast::postgres::PostgresProvider;
use steadfast::postgres::target::{ConnectError, ConnectTarget, Connected};

use super::kind_10_opening_ends::hostile::{Hostile, Manner};

const AUTHORITY: &str = include_str!("testdata/ca.pem");
/// The same authority with the same key, in a certificate that ended in 2021.
const EXPIRED_AUTHORITY: &str = include_str!("testdata/expired-ca.pem");
/// Somebody else's.
const STRANGER: &str = include_str!("../../../../src/postgres/tls/testdata/ca.pem");
const CLIENT: &str = include_str!("testdata/client.pem");
const CLIENT_KEY: &str = include_str!("testdata/client.key");
const CLIENT_V1: &str = include_str!("testdata/client-v1.pem");
const CLIENT_V1_KEY: &str = include_str!("testdata/client-v1.key");
const SERVER: &str = include_str!("testdata/server.pem");
const SERVER_KEY: &str = include_str!("testdata/server.key");

/// A broken build must not hang.
const LIMIT: Duration = Duration::from_secs(30);

/// A server with TLS that asks `alice` for a password and `worker` for a certificate, and a home directory.
struct Place {
    cluster: Cluster,
    home: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let cluster = Cluster::start(Options::under(env!("CARGO_TARGET_TMPDIR"))).expect("start a server");
        let data = cluster.data_dir();
        let owner = fs::metadata(&data).expect("look at the data folder");
        for (name, text) in [("s.crt", SERVER), ("s.key", SERVER_KEY), ("ca.crt", AUTHORITY)] {
            let path = write(&data.join(name), text, 0o600);
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("give it to the server");
        }
        let rules = "hostssl all worker 127.0.0.1/32 cert\nhost all alice 127.0.0.1/32 scram-sha-256\n";
        let file = data.join("pg_hba.conf");
        let rest = fs::read_to_string(&file).expect("read the rules");
        fs::write(&file, format!("{rules}{rest}")).expect("write the rules");
        let place = Self { cluster, home };
        let admin = place.admin().await;
        for sql in [
            "CREATE ROLE worker LOGIN; CREATE ROLE alice LOGIN PASSWORD 's3cret'",
            "ALTER SYSTEM SET ssl_cert_file = 's.crt'",
            "ALTER SYSTEM SET ssl_key_file = 's.key'",
            "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'",
            "ALTER SYSTEM SET ssl = on",
        ] {
            admin.batch_execute(sql).await.expect(sql);
        }
        place.cluster.restart().expect("restart with TLS");
        place
    }

    async fn admin(&self) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.cluster.url(), tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("connect");
        tokio::spawn(connection);
        client
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.home.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        write(&path, text, mode)
    }

    /// Connects as a program would whose home directory is here.
    async fn connect(&self, user: &str, more: &str) -> Result<Connected, ConnectError> {
        let url = format!(
            "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres user={user} {more}",
            self.cluster.port()
        );
        let home = self.home.path().display().to_string();
        let target =
            ConnectTarget::parse_with_env(&url, &|name| (name == "HOME").then(|| home.clone())).expect("a target");
        tokio::time::timeout(LIMIT, target.connect(None, &[]))
            .await
            .expect("it hangs")
    }

    /// Which must be refused, in these words.
    async fn refused(&self, user: &str, more: &str, words: &[&str]) -> ConnectError {
        let error = match self.connect(user, more).await {
            Err(error) => error,
            Ok(connected) => panic!("{more}: connected to {}", connected.host),
        };
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{more}: {text:?} lacks {word:?}");
        }
        assert!(
            !text.contains("s3cret") && !format!("{error:?}").contains("s3cret"),
            "{text}"
        );
        error
    }
}

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    fs::write(path, text).expect("write a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set permissions");
    path.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_trusts_and_shows_what_libpq_would() {
    let place = Place::new().await;
    authorities(&place).await;
    client_certificates(&place).await;
    files_that_are_none(&place).await;
}

async fn authorities(place: &Place) {
    for mode in ["verify-ca", "verify-full"] {
        let words = [".postgresql/root.crt does not exist", "sslrootcert=system"];
        let error = place.refused("postgres", &format!("sslmode={mode}"), &words).await;
        assert!(error.is_tls(), "{error}");
    }
    let connected = place
        .connect("postgres", "sslmode=require")
        .await
        .expect("nothing is verified");
    assert!(connected.encrypted);
    // The system's authorities do not vouch for this one.
    let system = place.refused("postgres", "sslrootcert=system", &[]).await;
    assert!(system.is_tls(), "{system}");

    let file = place.file("authority.crt", AUTHORITY, 0o644);
    for mode in ["verify-ca", "verify-full"] {
        let more = format!("sslmode={mode} sslrootcert={}", file.display());
        assert!(place.connect("postgres", &more).await.expect("trusted").encrypted);
    }
    let expired = place.file("expired.crt", EXPIRED_AUTHORITY, 0o644);
    let more = format!("sslmode=verify-full sslrootcert={}", expired.display());
    place.refused("postgres", &more, &["expired.crt", "has expired"]).await;
    let both = place.file("both.crt", &format!("{EXPIRED_AUTHORITY}{STRANGER}"), 0o644);
    let more = format!("sslmode=verify-full sslrootcert={}", both.display());
    place
        .refused("postgres", &more, &["not signed by a trusted authority"])
        .await;

    // A root file in the home directory makes `require` verify, as in libpq.
    place.file(".postgresql/root.crt", STRANGER, 0o644);
    let error = place
        .refused("postgres", "sslmode=require", &["not signed by a trusted authority"])
        .await;
    assert!(error.is_tls(), "{error}");
    place.file(".postgresql/root.crt", AUTHORITY, 0o644);
    for mode in ["require", "verify-ca", "verify-full"] {
        let connected = place.connect("postgres", &format!("sslmode={mode}")).await;
        assert!(connected.expect("trusted").encrypted);
    }
}

async fn client_certificates(place: &Place) {
    let shows = |certificate: &Path, key: &Path| {
        format!(
            "sslmode=require sslcert={} sslkey={}",
            certificate.display(),
            key.display()
        )
    };
    let certificate = place.file("client.crt", CLIENT, 0o644);
    let key = place.file("client.key", CLIENT_KEY, 0o600);
    assert!(
        place
            .connect("worker", &shows(&certificate, &key))
            .await
            .expect("shown")
            .encrypted
    );

    let (old, old_key) = (
        place.file("v1.crt", CLIENT_V1, 0o644),
        place.file("v1.key", CLIENT_V1_KEY, 0o600),
    );
    let words = ["v1.crt", "version 1", "version 3"];
    place.refused("worker", &shows(&old, &old_key), &words).await;
    let words = ["v1.key", "is not the key of the certificate", "client.crt"];
    place.refused("worker", &shows(&certificate, &old_key), &words).await;
    let open = place.file("open.key", CLIENT_KEY, 0o644);
    place
        .refused(
            "worker",
            &shows(&certificate, &open),
            &["open.key", "group or world access"],
        )
        .await;
    let none = place.home.path().join("none.key");
    place
        .refused("worker", &shows(&certificate, &none), &["none.key", "client.crt"])
        .await;
    place.refused("worker", &shows(&none, &key), &["none.key"]).await;

    // What lies in the home directory is shown unasked.
    place.file(".postgresql/postgresql.crt", CLIENT, 0o644);
    place
        .refused("worker", "sslmode=require", &["postgresql.key", "postgresql.crt"])
        .await;
    place.file(".postgresql/postgresql.key", CLIENT_KEY, 0o600);
    assert!(
        place
            .connect("worker", "sslmode=require")
            .await
            .expect("shown")
            .encrypted
    );
}

/// A pipe has no end that a reader could wait for.
async fn files_that_are_none(place: &Place) {
    let pipe = place.home.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .expect("run mkfifo");
    assert!(made.success());
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o600)).expect("set permissions");
    let (certificate, key) = (
        place.file("c.crt", CLIENT, 0o644),
        place.file("c.key", CLIENT_KEY, 0o600),
    );
    for (root, certificate, key) in [
        (&pipe, &certificate, &key),
        (&certificate, &pipe, &key),
        (&certificate, &certificate, &pipe),
    ] {
        let more = format!(
            "sslmode=require sslrootcert={} sslcert={} sslkey={}",
            root.display(),
            certificate.display(),
            key.display()
        );
        place.refused("worker", &more, &["pipe", "not a plain file"]).await;
    }
    let more = format!("passfile={}", pipe.display());
    let error = place.refused("alice", &more, &["pipe", "not a plain file"]).await;
    assert!(error.is_authentication(), "{error}");
}

#[tokio::test]
async fn a_refused_password_says_what_the_file_had_to_do_with_it() {
    let place = Place::new().await;
    let good = format!(
        "127.0.0.1:{port}:*:alice:s3cret\nlocalhost:{port}:*:alice:s3cret\n",
        port = place.cluster.port()
    );
    let file = place.file(".pgpass", &good, 0o600);
    place.connect("alice", "").await.expect("the file holds the password");
    for mode in [0o644, 0o640, 0o660] {
        place.file(".pgpass", &good, mode);
        let error = place.refused("alice", "", &[".pgpass", "0600 or less"]).await;
        assert!(error.is_authentication(), "{error}");
    }
    place.file(".pgpass", "localhost:*:*:alice:wrong-s3cret\n", 0o600);
    place.refused("alice", "", &["password is that of", ".pgpass"]).await;
    place.file(".pgpass", "elsewhere:*:*:alice:s3cret\n", 0o600);
    place.refused("alice", "", &["no line", ".pgpass"]).await;
    fs::remove_file(&file).expect("remove the file");
    place.refused("alice", "", &[".pgpass", "does not exist"]).await;
    let missing = place.home.path().join("missing");
    place
        .refused(
            "alice",
            &format!("passfile={}", missing.display()),
            &["missing", "does not exist"],
        )
        .await;
    // A password that was given is another matter.
    let error = place
        .refused("alice", "password=not-s3cret-at-all", &["authentication failed"])
        .await;
    assert!(!error.to_string().contains("pgpass"), "{error}");
}

#[tokio::test]
async fn a_message_before_authentication_is_not_gathered() {
    for kind in [b'R', b'E', b'N', b'S', b'v'] {
        let server = Hostile::start(Manner::Announces(kind)).await;
        let opening = PostgresProvider::builder(&server.url(20)).connect();
        let error = tokio::time::timeout(LIMIT, opening)
            .await
            .expect("it hangs")
            .expect_err("it opened");
        let sent = server.sent() >> 20;
        assert!(sent < 64, "took {sent} MiB before it knew who sent them: {error}");
        assert!(error.to_string().contains("2147483643 bytes"), "{error}");
    }
}

/// Whatever is wrong with a connection string, the password in it is not repeated.
#[tokio::test]
async fn a_password_is_in_no_error_and_no_debug_text() {
    let urls = [
        "postgres://u:s3cret@127.0.0.1:1/d?sslmode=disable",
        "postgres://u:%73%33cret@127.0.0.1:1/d?sslmode=disable",
        "postgres://u:s3cret@127.0.0.1:1/d?sslmode=bogus",
        "postgres://u:s3cret@127.0.0.1:port/d",
        "postgres://u:s3cret/x@127.0.0.1:1/d",
        "postgres://u:s3cret?x@127.0.0.1:1/d",
        "postgres://u:a?s3cret=x@127.0.0.1:1/d",
        "postgres://u:s3cret#x@127.0.0.1:1/d",
        "postgres://u:s3cret@x@127.0.0.1:1/d?sslmode=disable",
        "postgres://u:%zzs3cret@127.0.0.1:1/d",
        "postgres://u@127.0.0.1:1/d?password=a&s3cret&sslmode=disable",
        "postgres://u@127.0.0.1:1/d?password=a&s3cret=1&sslmode=disable",
        "postgres://u@127.0.0.1:1/d?passwrd=s3cret",
        "mysql://u:s3cret@127.0.0.1:1/d",
        "host=127.0.0.1 port=1 user=u password=s3cret sslmode=disable",
        "host=127.0.0.1 port=1 user=u password=a s3cret",
        "host=127.0.0.1 port=1 user=u password=a s3cret=1",
        "host=127.0.0.1 port=1 user=u password='s3cret",
        "host=127.0.0.1 port=s3cret user=u",
        "s3cret",
    ];
    for url in urls {
        let builder = PostgresProvider::builder(url);
        let shown = format!("{builder:?}");
        let error = builder.connect().await.expect_err("nobody listens there");
        for text in [shown, error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("s3cret") && !text.contains("%73"), "{url}: {text}");
        }
    }
}
