//! Servers that mean no good, or are ill: they speak PostgreSQL's protocol up to a point.
//!
//! Invariant: what they send is counted, and they end with their handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

/// How far a server is a server, and what it does from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes the connection and says nothing.
    Deaf,
    /// Agrees to TLS and says nothing more.
    DeafInTls,
    /// Sends the first message a byte a second.
    Trickles,
    /// Announces one message of 2 GiB of this kind, and sends it.
    Announces(u8),
    /// Lets everybody in, then sends notices and is never ready.
    NeverReady,
    /// Lets everybody in, then reports parameters, each of another name, and is never ready.
    ParametersWithoutEnd,
    /// Demands a password proof that takes hours to compute.
    HoursOfScram,
    /// Lets everybody in, is ready, and then says nothing.
    SilentAfterwards,
    /// Lets everybody in, is ready, and then sends notices without end.
    ChattersAfterwards,
    /// Lets everybody in, is ready, and then reports parameters without end.
    ReportsAfterwards,
    /// Lets everybody in, is ready, and then sends an answer a byte a second.
    TricklesAfterwards,
    /// Lets everybody in, is ready, and then sends one notice of 2 GiB.
    AnnouncesAfterwards,
}

/// A running one.
pub(crate) struct Hostile {
    port: u16,
    sent: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Hostile {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let sent = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        let counter = Arc::clone(&sent);
        task.spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mut guest = Guest {
                    stream,
                    sent: Arc::clone(&counter),
                };
                // That the guest leaves is how it must end.
                guests.spawn(async move { drop(guest.treat(manner).await) });
            }
        });
        Self {
            port,
            sent,
            _task: task,
        }
    }

    /// With this many seconds to connect.
    pub(crate) fn url(&self, connect_timeout: u32) -> String {
        format!(
            "postgres://anybody:hunter2@127.0.0.1:{}/any?connect_timeout={connect_timeout}&sslmode=prefer",
            self.port
        )
    }

    /// Bytes that somebody has taken.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

struct Guest {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
}

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).expect("a short message");
    [&[kind], &length.to_be_bytes()[..], content].concat()
}

fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mand another one\0\0")
}

fn parameter(number: u64) -> Vec<u8> {
    message(
        b'S',
        format!("steadfast.parameter_{number}\0{}\0", "x".repeat(200)).as_bytes(),
    )
}

impl Guest {
    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// One message of the start: a length, then as much.
    async fn hear(&mut self) -> std::io::Result<Vec<u8>> {
        let length = usize::try_from(self.stream.read_u32().await?).expect("a length");
        let mut content = vec![0; length.saturating_sub(4)];
        self.stream.read_exact(&mut content).await?;
        Ok(content)
    }

    async fn treat(&mut self, manner: Manner) -> std::io::Result<()> {
        if manner == Manner::Deaf {
            return silence().await;
        }
        let asks_for_tls = 80_877_103_u32.to_be_bytes();
        if self.hear().await?.starts_with(&asks_for_tls) {
            if manner == Manner::DeafInTls {
                self.send(b"S").await?;
                return silence().await;
            }
            self.send(b"N").await?;
            self.hear().await?;
        }
        match manner {
            Manner::Trickles => return self.trickle(&message(b'E', &[b'x'; 10_000])).await,
            Manner::Announces(kind) => return self.announce(kind).await,
            Manner::HoursOfScram => return self.hours_of_scram().await,
            _ => {}
        }
        let mut welcome = [message(b'R', &[0; 4]), message(b'S', b"server_version\x0015.4\0")].concat();
        welcome.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 1]));
        self.send(&welcome).await?;
        match manner {
            Manner::NeverReady => return self.repeat(&notice()).await,
            Manner::ParametersWithoutEnd => return self.report().await,
            _ => self.send(&message(b'Z', b"I")).await?,
        }
        // The first query.
        self.stream.read_u8().await?;
        match manner {
            Manner::ChattersAfterwards => self.repeat(&notice()).await,
            Manner::ReportsAfterwards => self.report().await,
            Manner::TricklesAfterwards => self.trickle(&message(b'D', &[b'x'; 10_000])).await,
            Manner::AnnouncesAfterwards => self.announce(b'N').await,
            _ => silence().await,
        }
    }

    async fn trickle(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        for byte in bytes {
            self.send(&[*byte]).await?;
            sleep(Duration::from_secs(1)).await;
        }
        silence().await
    }

    async fn announce(&mut self, kind: u8) -> std::io::Result<()> {
        self.send(&[&[kind], &0x7fff_ffff_u32.to_be_bytes()[..]].concat())
            .await?;
        self.repeat(&[b'x'; 1 << 16]).await
    }

    async fn repeat(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            self.send(bytes).await?;
        }
    }

    async fn report(&mut self) -> std::io::Result<()> {
        for number in 0.. {
            self.send(&parameter(number)).await?;
        }
        Ok(())
    }

    async fn hours_of_scram(&mut self) -> std::io::Result<()> {
        self.send(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")).await?;
        let kind = self.stream.read_u8().await?;
        assert_eq!(kind, b'p');
        let first = self.hear().await?;
        let nonce = first
            .windows(2)
            .rposition(|pair| pair == b"r=")
            .map(|at| String::from_utf8_lossy(&first[at + 2..]).into_owned())
            .expect("a nonce");
        let challenge = format!("r={nonce}more,s=c2FsdHNhbHQ=,i=2147483647");
        self.send(&message(b'R', &[&[0, 0, 0, 11], challenge.as_bytes()].concat()))
            .await?;
        silence().await
    }
}

async fn silence() -> std::io::Result<()> {
    std::future::pending().await
}
