//! The server behind the proxy, by TCP or by Unix socket.

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where the real server listens.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Upstream {
    /// The server that a database URL names.
    pub(crate) fn of(database_url: &str) -> Self {
        let config: tokio_postgres::Config = database_url.parse().expect("a database URL");
        let port = config.get_ports().first().copied().unwrap_or(5432);
        match config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => Self::Tcp(host.clone(), port),
            Some(tokio_postgres::config::Host::Unix(directory)) => {
                Self::Unix(directory.join(format!(".s.PGSQL.{port}")))
            }
            None => Self::Tcp("127.0.0.1".to_owned(), port),
        }
    }

    pub(crate) async fn connect(
        &self,
    ) -> std::io::Result<(Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>)> {
        Ok(match self {
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Unix(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                (Box::new(read), Box::new(write))
            }
        })
    }
}
