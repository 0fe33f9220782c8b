//! The socket under a connection: TCP with keepalive, or Unix.
//!
//! Invariant: a TCP socket is handed out only with its options set. A plain enum and not a boxed trait: with a trait
//! object inside, the compiler cannot prove a caller's future `Send` (the driver's associated types hide it).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::settings::{Keepalive, Settings};

/// An address that can be dialled.
#[derive(Clone, Copy)]
pub(super) enum Address<'a> {
    Tcp(SocketAddr),
    /// The directory (or `@name`) and the port that names the socket in it.
    Unix(&'a str, u16),
}

/// An open socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn dial(address: Address<'_>, settings: &Settings) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                // Statements are small and wait for their answers: never hold them back.
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                set_keepalive(&socket, &settings.keepalive)?;
                #[cfg(target_os = "linux")]
                if let Some(limit) = settings.tcp_user_timeout {
                    socket.set_tcp_user_timeout(Some(limit))?;
                }
                Ok(Self::Tcp(stream))
            }
            Address::Unix(dir, port) => dial_unix(dir, port).await,
        }
    }
}

#[cfg(unix)]
async fn dial_unix(dir: &str, port: u16) -> io::Result<Socket> {
    // A leading NUL is how the abstract namespace is addressed; libpq writes it `@`.
    let path = match dir.strip_prefix('@') {
        Some(name) => format!("\0{name}/.s.PGSQL.{port}"),
        None => format!("{dir}/.s.PGSQL.{port}"),
    };
    UnixStream::connect(path).await.map(Socket::Unix)
}

#[cfg(not(unix))]
async fn dial_unix(_: &str, _: u16) -> io::Result<Socket> {
    Err(io::ErrorKind::Unsupported.into())
}

fn set_keepalive(socket: &SockRef<'_>, keepalive: &Keepalive) -> io::Result<()> {
    if !keepalive.enabled {
        return Ok(());
    }
    let mut values = TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        values = values.with_time(idle);
    }
    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "windows"))]
    if let Some(interval) = keepalive.interval {
        values = values.with_interval(interval);
    }
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    if let Some(count) = keepalive.count {
        values = values.with_retries(count);
    }
    socket.set_tcp_keepalive(&values)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
