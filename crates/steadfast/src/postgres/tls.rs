//! TLS for PostgreSQL connections over rustls: what to trust, what to show, and the driver's connector.
//!
//! Invariant: a mode never verifies less than libpq documents for it, and keys never reach a message or a log.

mod certificate;
mod verify;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore, version};

use super::guard::{Guard, Guarded};
use verify::{Check, Trust, Verifier};

/// How much TLS is wanted, as libpq's `sslmode`; ordered from none to strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only where the server refuses a plain connection.
    Allow,
    /// TLS where the server offers it, else plain (libpq's default).
    Prefer,
    /// Always TLS; the certificate is verified only where a root certificate file is known.
    Require,
    /// Always TLS, with a certificate of a trusted authority.
    VerifyCa,
    /// Always TLS, with a certificate of a trusted authority for this very host.
    VerifyFull,
}

/// Where trusted authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// Nothing given and no home directory known.
    Unset,
    /// The file in the home directory, used if it exists.
    Default(PathBuf),
    /// A file that was asked for: it must exist.
    File(PathBuf),
    /// The operating system's store.
    System,
}

/// Files of a client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Asked for by name: the certificate must exist.
    pub(crate) explicit: bool,
}

/// Protocol versions to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsVersions {
    Only12,
    Only13,
    Both,
}

/// Everything about TLS that a connection string says.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) mode: SslMode,
    pub(crate) root: RootSource,
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) sni: bool,
    pub(crate) negotiation: SslNegotiation,
    pub(crate) versions: TlsVersions,
}

impl TlsSettings {
    /// The mode alone, everything else at its default.
    pub(crate) fn new(mode: SslMode) -> Self {
        Self {
            mode,
            root: RootSource::Unset,
            certificate: None,
            sni: true,
            negotiation: SslNegotiation::Postgres,
            versions: TlsVersions::Both,
        }
    }
}

/// Why TLS cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server has no TLS and the mode demands it.
    #[error("the server does not offer TLS")]
    NotOffered,
    /// The handshake failed: often a certificate that is not trusted.
    #[error("{}", handshake_text(.0))]
    Handshake(#[source] rustls::Error),
    /// `verify-full` has no host name to check (only `hostaddr` was given), or one that cannot be in a certificate.
    #[error("verify-full needs a host name that a certificate can hold")]
    HostName,
    /// `verify-ca` or `verify-full` has no authority to trust. As in libpq, the operating system's count only where
    /// `sslrootcert=system` asks for them.
    #[error("{}", no_root_text(.0.as_deref()))]
    NoRoot(Option<PathBuf>),
    /// The operating system's store of authorities is empty or cannot be read.
    #[error("the operating system's root certificates cannot be read")]
    SystemRoots,
    /// A file with a certificate or key is missing or unusable.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TlsError {
    /// The TLS error inside an I/O error, or the I/O error itself.
    pub(crate) fn from_io(error: io::Error) -> Result<Self, io::Error> {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Ok(Self::Handshake(inner.clone())),
            None => Err(error),
        }
    }

    /// Whether the server's certificate was judged and not accepted.
    #[must_use]
    pub fn is_untrusted_certificate(&self) -> bool {
        matches!(self, Self::Handshake(rustls::Error::InvalidCertificate(_)))
    }

    fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

fn no_root_text(file: Option<&Path>) -> String {
    let what = match file {
        Some(path) => format!("root certificate file {} does not exist", path.display()),
        None => "no root certificate file is given".to_owned(),
    };
    format!("{what}: name one (sslrootcert), or trust the operating system's authorities (sslrootcert=system)")
}

fn handshake_text(error: &rustls::Error) -> String {
    let reason = match error {
        rustls::Error::InvalidCertificate(reason) => reason,
        rustls::Error::General(text) => return text.clone(),
        other => return other.to_string(),
    };
    match reason {
        CertificateError::UnknownIssuer => "the server's certificate is not signed by a trusted authority".to_owned(),
        CertificateError::NotValidForName => "the server's certificate is for another host name".to_owned(),
        CertificateError::Expired => "the server's certificate has expired".to_owned(),
        CertificateError::NotValidYet => "the server's certificate is not valid yet".to_owned(),
        // An authority's certificate served as it is, and not the very one that is trusted.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "the server's certificate is self-signed and not the one that is trusted".to_owned()
        }
        CertificateError::Other(other) => format!("the server's certificate is not accepted: {other}"),
        reason => format!("the server's certificate is not accepted: {reason}"),
    }
}

/// A TLS configuration whose files are read; cheap to clone.
#[derive(Clone)]
pub(crate) struct Prepared {
    config: Arc<ClientConfig>,
    names_host: bool,
}

impl Prepared {
    /// Reads certificates and keys. Blocks on files; read for each connection so that renewed ones are picked up.
    pub(crate) fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = trust(settings)?;
        let check = match (settings.mode, trust) {
            (SslMode::VerifyFull, Some(trust)) => Check::ChainAndName(trust),
            (_, Some(trust)) => Check::Chain(trust),
            (_, None) => Check::Nothing,
        };
        let names_host = matches!(check, Check::ChainAndName(_));
        let verifier = Verifier::new(check, provider.signature_verification_algorithms);
        let versions: &[_] = match settings.versions {
            TlsVersions::Only12 => &[&version::TLS12],
            TlsVersions::Only13 => &[&version::TLS13],
            TlsVersions::Both => &[&version::TLS13, &version::TLS12],
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Handshake)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.certificate {
            Some(files) => match read_identity(files)? {
                Some((chain, key)) => builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable_identity(files, &error))?,
                None => builder.with_no_client_auth(),
            },
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = settings.sni;
        if settings.negotiation == SslNegotiation::Direct {
            // Without it a server cannot tell this from another protocol on its port, and must refuse.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self {
            config: Arc::new(config),
            names_host,
        })
    }

    /// A connector for one attempt to reach `host` (the name to verify, where there is one).
    pub(crate) fn connector(&self, host: Option<&str>) -> Result<Connector, TlsError> {
        let name = host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
        let name = match name {
            Some(name) => name,
            None if self.names_host => return Err(TlsError::HostName),
            // Only a placeholder: it is not checked, and an address is never sent as SNI.
            None => ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        };
        Ok(Connector {
            config: self.config.clone(),
            name,
            progress: Arc::default(),
        })
    }
}

/// What to trust, if anything.
fn trust(settings: &TlsSettings) -> Result<Option<Trust>, TlsError> {
    match &settings.root {
        RootSource::System => system_trust().map(Some),
        RootSource::File(path) => file_trust(path).map(Some),
        RootSource::Default(path) if path.exists() => file_trust(path).map(Some),
        _ if settings.mode < SslMode::VerifyCa => Ok(None),
        RootSource::Default(path) => Err(TlsError::NoRoot(Some(path.clone()))),
        RootSource::Unset => Err(TlsError::NoRoot(None)),
    }
}

fn file_trust(path: &Path) -> Result<Trust, TlsError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        // WebPKI takes a root at its word, whatever its dates; OpenSSL, and so libpq, does not.
        if certificate::check_dates(certificate, UnixTime::now()).is_ok() {
            roots
                .add(certificate.clone())
                .map_err(|error| TlsError::file(path, error))?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::file(
            path,
            "every certificate in it has expired, or is not valid yet",
        ));
    }
    Ok(Trust {
        roots: Arc::new(roots),
        pinned: certificates,
    })
}

fn system_trust() -> Result<Trust, TlsError> {
    // Hundreds of certificates that change with the operating system: read once, unlike the files of one's own.
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Trust {
            roots: roots.clone(),
            pinned: Vec::new(),
        });
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::SystemRoots);
    }
    Ok(Trust {
        roots: ROOTS.get_or_init(|| Arc::new(roots)).clone(),
        pinned: Vec::new(),
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_plain(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| TlsError::file(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::file(path, "holds no PEM certificate"));
    }
    Ok(certificates)
}

/// The content of a plain file. Anything else could keep the reader waiting for ever, and is read for each connection anew.
fn read_plain(path: &Path) -> Result<Vec<u8>, TlsError> {
    let metadata = std::fs::metadata(path).map_err(|error| TlsError::file(path, error))?;
    if !metadata.is_file() {
        return Err(TlsError::file(path, "is not a plain file"));
    }
    std::fs::read(path).map_err(|error| TlsError::file(path, error))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_identity(files: &ClientCertificate) -> Result<Option<Identity>, TlsError> {
    // A file that is there and cannot be looked at is an error, as in libpq.
    if !files.explicit && files.certificate.try_exists().is_ok_and(|there| !there) {
        return Ok(None);
    }
    let chain = read_certificates(&files.certificate)?;
    if chain.first().is_some_and(certificate::is_version_1) {
        let reason = "is an X.509 certificate of version 1, which cannot be used here: have it issued as version 3 (with any \
                      extension, such as `-extfile` gives)";
        return Err(TlsError::file(&files.certificate, reason));
    }
    let metadata = std::fs::metadata(&files.key).map_err(|error| {
        TlsError::file(
            &files.key,
            format!("the key of {} cannot be read: {error}", files.certificate.display()),
        )
    })?;
    if open_to_others(&metadata) {
        let reason = "has group or world access: permissions must be 0600 or less, or 0640 or less if owned by root";
        return Err(TlsError::file(&files.key, reason));
    }
    let pem = read_plain(&files.key)?;
    // The parser's own error could repeat a line of the key.
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| TlsError::file(&files.key, "holds no unencrypted PEM key (PKCS#8, PKCS#1 or SEC1)"))?;
    Ok(Some((chain, key)))
}

fn unusable_identity(files: &ClientCertificate, error: &rustls::Error) -> TlsError {
    let certificate = files.certificate.display();
    match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::file(&files.key, format!("is not the key of the certificate {certificate}"))
        }
        error => TlsError::file(
            &files.key,
            format!("not usable with its certificate {certificate}: {error}"),
        ),
    }
}

#[cfg(unix)]
fn open_to_others(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    metadata.mode() & forbidden != 0
}

#[cfg(not(unix))]
fn open_to_others(_: &std::fs::Metadata) -> bool {
    false
}

/// How far one TLS handshake has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    agreed: AtomicBool,
    finished: AtomicBool,
}

impl Progress {
    /// The server has agreed to TLS.
    pub(crate) fn agreed(&self) -> bool {
        self.agreed.load(Ordering::Relaxed)
    }

    /// The connection is encrypted, and the server is who it must be.
    pub(crate) fn finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

/// One use of a TLS configuration, for the driver.
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    progress: Arc<Progress>,
}

impl Connector {
    /// How far this use has come; it outlives the connector.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }
}

impl<S> TlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted<S>, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        self.progress.agreed.store(true, Ordering::Relaxed);
        let connector = tokio_rustls::TlsConnector::from(self.config);
        Box::pin(async move {
            match connector.connect(self.name, stream).await {
                Ok(stream) => {
                    self.progress.finished.store(true, Ordering::Relaxed);
                    Ok(Encrypted(Guarded::new(stream, Guard::messages())))
                }
                Err(error) => Err(TlsError::from_io(error).map_or_else(Into::into, Into::into)),
            }
        })
    }
}

/// An encrypted stream that knows its channel binding.
pub(crate) struct Encrypted<S>(Guarded<tokio_rustls::client::TlsStream<S>>);

impl<S> TlsStream for Encrypted<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().get_ref().1.peer_certificates();
        match certificates.and_then(|chain| certificate::end_point_hash(chain.first()?)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_store_is_trusted_only_when_asked_for() {
        for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
            let mut settings = TlsSettings::new(mode);
            let error = Prepared::load(&settings).err().unwrap();
            assert!(matches!(error, TlsError::NoRoot(None)));
            settings.root = RootSource::Default("/nowhere/root.crt".into());
            let error = Prepared::load(&settings).err().unwrap().to_string();
            assert!(
                error.contains("/nowhere/root.crt does not exist") && error.contains("sslrootcert=system"),
                "{error}"
            );
        }
    }

    #[test]
    fn files_that_were_asked_for_must_be_usable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.crt");
        let mut settings = TlsSettings::new(SslMode::Require);
        settings.root = RootSource::Default(path.clone());
        assert!(
            Prepared::load(&settings).is_ok(),
            "a default that is missing is not used"
        );
        settings.root = RootSource::File(path.clone());
        assert!(matches!(
            Prepared::load(&settings).err().unwrap(),
            TlsError::File { .. }
        ));
        std::fs::write(&path, "not a certificate").unwrap();
        let error = Prepared::load(&settings).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("{}: holds no PEM certificate", path.display())
        );
    }

    #[test]
    fn modes_are_ordered_by_strictness() {
        assert!(SslMode::Disable < SslMode::Prefer && SslMode::Prefer < SslMode::Require);
        assert!(SslMode::Require < SslMode::VerifyCa && SslMode::VerifyCa < SslMode::VerifyFull);
    }

    #[test]
    fn a_name_is_needed_only_to_check_it() {
        let lax = Prepared::load(&TlsSettings::new(SslMode::Require)).unwrap();
        assert!(lax.connector(None).is_ok() && lax.connector(Some("no name at all!")).is_ok());
        let strict = Prepared {
            names_host: true,
            ..lax
        };
        assert!(matches!(strict.connector(None).err().unwrap(), TlsError::HostName));
        assert!(strict.connector(Some("db.example.org")).is_ok() && strict.connector(Some("::1")).is_ok());
    }
}
