//! Judges the server's certificate: nothing, its chain, or its chain and its name.
//!
//! Invariant: whatever is not checked, the server always proves that it holds the key of the certificate it shows.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

/// What counts as trusted.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    /// The certificates of a root file themselves: a self-signed server certificate is its own root.
    pub(super) pinned: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(super) enum Check {
    Nothing,
    Chain(Trust),
    ChainAndName(Trust),
}

#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(check: Check, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { check, algorithms }
    }

    fn verify_chain(
        &self,
        trust: &Trust,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // WebPKI refuses an authority's certificate as a server's, which is what `openssl req -x509` makes and
        // PostgreSQL's manual shows. Trusting that very certificate is safe: its dates are all that is left to check.
        if trust.pinned.iter().any(|pinned| pinned == end_entity) && certificate::is_self_signed(end_entity) {
            return certificate::check_dates(end_entity, now).map_err(Error::InvalidCertificate);
        }
        let parsed = parse(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &trust.roots, intermediates, now, self.algorithms.all)
    }
}

fn parse<'a>(end_entity: &'a CertificateDer<'a>) -> Result<ParsedCertificate<'a>, Error> {
    ParsedCertificate::try_from(end_entity).map_err(|error| {
        if certificate::is_version_1(end_entity) {
            Error::General(
                "the server's certificate is X.509 version 1 and cannot be verified: reissue it as version 3".into(),
            )
        } else {
            error
        }
    })
}

/// WebPKI looks at alternative names only; libpq's documented rule adds the common name where there are none.
fn verify_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    match verify_server_name(&parse(end_entity)?, name) {
        Err(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) if certificate::common_name_matches(end_entity, name) => Ok(()),
        result => result,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.check {
            Check::Nothing => {}
            Check::Chain(trust) => self.verify_chain(trust, end_entity, intermediates, now)?,
            Check::ChainAndName(trust) => {
                self.verify_chain(trust, end_entity, intermediates, now)?;
                verify_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !matches!(self.check, Check::Nothing) {
            return verify_tls13_signature(message, cert, dss, &self.algorithms);
        }
        // Unverified modes meet certificates that WebPKI cannot parse (version 1); the bare key is enough here.
        let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let key = SubjectPublicKeyInfoDer::from(certificate::public_key(cert).ok_or_else(unreadable)?);
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    const AUTHORITY: &[u8] = include_bytes!("testdata/ca.pem");
    const COMMON_NAME: &[u8] = include_bytes!("testdata/common-name.pem");
    const ALTERNATIVE_NAME: &[u8] = include_bytes!("testdata/alternative-name.pem");
    const SELF_SIGNED: &[u8] = include_bytes!("testdata/self-signed-pss.pem");
    /// In 2033, when all of them are valid, and in 2065, when none is.
    const VALID: u64 = 2_000_000_000;
    const EXPIRED: u64 = 3_000_000_000;

    fn trust(pem: &[u8]) -> Trust {
        let certificate = CertificateDer::from_pem_slice(pem).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        Trust {
            roots: Arc::new(roots),
            pinned: vec![certificate],
        }
    }

    fn accepts(check: Check, pem: &[u8], host: &str, now: u64) -> bool {
        let verifier = Verifier::new(check, ring::default_provider().signature_verification_algorithms);
        let certificate = CertificateDer::from_pem_slice(pem).unwrap();
        let host = ServerName::try_from(host).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier.verify_server_cert(&certificate, &[], &host, &[], now).is_ok()
    }

    #[test]
    fn full_checks_chain_name_and_dates() {
        for (root, pem, host, now, expected) in [
            (AUTHORITY, ALTERNATIVE_NAME, "other.example.org", VALID, true),
            (AUTHORITY, ALTERNATIVE_NAME, "10.0.0.1", VALID, true),
            (AUTHORITY, ALTERNATIVE_NAME, "db.example.org", VALID, false),
            (AUTHORITY, ALTERNATIVE_NAME, "other.example.org", EXPIRED, false),
            (AUTHORITY, COMMON_NAME, "db.example.org", VALID, true),
            (AUTHORITY, COMMON_NAME, "db.example.com", VALID, false),
            (SELF_SIGNED, COMMON_NAME, "db.example.org", VALID, false),
            (SELF_SIGNED, SELF_SIGNED, "10.0.0.2", VALID, true),
            (SELF_SIGNED, SELF_SIGNED, "10.0.0.3", VALID, false),
            (SELF_SIGNED, SELF_SIGNED, "10.0.0.2", EXPIRED, false),
            (AUTHORITY, SELF_SIGNED, "10.0.0.2", VALID, false),
        ] {
            assert_eq!(
                accepts(Check::ChainAndName(trust(root)), pem, host, now),
                expected,
                "{host} {now}"
            );
        }
    }

    #[test]
    fn chain_ignores_only_the_name() {
        assert!(accepts(Check::Chain(trust(AUTHORITY)), COMMON_NAME, "elsewhere", VALID));
        assert!(!accepts(
            Check::Chain(trust(AUTHORITY)),
            COMMON_NAME,
            "elsewhere",
            EXPIRED
        ));
        assert!(!accepts(
            Check::Chain(trust(AUTHORITY)),
            SELF_SIGNED,
            "elsewhere",
            VALID
        ));
        // Not self-signed: being listed as trusted does not make it its own authority.
        assert!(!accepts(
            Check::Chain(trust(COMMON_NAME)),
            COMMON_NAME,
            "db.example.org",
            VALID
        ));
        assert!(accepts(Check::Nothing, SELF_SIGNED, "elsewhere", EXPIRED));
    }
}
