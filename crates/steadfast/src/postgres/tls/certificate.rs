//! Reads from certificates what rustls keeps to itself: channel binding hash, common name, dates, public key.
//!
//! Invariant: a certificate that cannot be read here yields "no", never a match.

use std::net::IpAddr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, SliceReader, Tag, TagNumber, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::{Certificate, name::Name};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
    Certificate::from_der(der).ok()
}

/// The `tls-server-end-point` binding (RFC 5929): the certificate hashed with its own signature's hash, but SHA-256
/// for MD5 and SHA-1. `None` where the signature has no such hash (Ed25519), which means no channel binding.
pub(super) fn end_point_hash(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    match signature_hash(&read(der)?.signature_algorithm)? {
        224 => Some(Sha224::digest(der).to_vec()),
        256 => Some(Sha256::digest(der).to_vec()),
        384 => Some(Sha384::digest(der).to_vec()),
        512 => Some(Sha512::digest(der).to_vec()),
        _ => None,
    }
}

/// Bits of the hash to use for a signature algorithm.
fn signature_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<u16> {
    match algorithm.oid.to_string().as_str() {
        // RSA: MD5, SHA-1, SHA-256; ECDSA: SHA-1, SHA-256; DSA: SHA-1, SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => Some(256),
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Some(256),
        "1.2.840.10040.4.3" | "2.16.840.1.101.3.4.3.2" => Some(256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(512),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.3.1" => Some(224),
        "1.2.840.113549.1.1.10" => pss_hash(algorithm),
        _ => None,
    }
}

/// RSA-PSS names its hash in its parameters; SHA-1 where it does not.
fn pss_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<u16> {
    let parameters = algorithm.parameters.as_ref()?;
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let hash = ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber::N0).ok()?;
    let Some(hash) = hash else { return Some(256) };
    match hash.value.oid.to_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(256),
        "2.16.840.1.101.3.4.2.2" => Some(384),
        "2.16.840.1.101.3.4.2.3" => Some(512),
        "2.16.840.1.101.3.4.2.4" => Some(224),
        _ => None,
    }
}

/// The `SubjectPublicKeyInfo` as it is encoded.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    read(der)?.tbs_certificate.subject_public_key_info.to_der().ok()
}

pub(super) fn is_version_1(der: &CertificateDer<'_>) -> bool {
    read(der).is_some_and(|certificate| certificate.tbs_certificate.version == Version::V1)
}

/// Whether issuer and subject are the same.
pub(super) fn is_self_signed(der: &CertificateDer<'_>) -> bool {
    read(der).is_some_and(|certificate| certificate.tbs_certificate.issuer == certificate.tbs_certificate.subject)
}

/// Whether `now` lies within the certificate's validity.
pub(super) fn check_dates(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let validity = read(der).ok_or(CertificateError::BadEncoding)?.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet);
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Whether the common name stands for the host, as libpq documents it: only in a certificate that has no alternative
/// name of the kind that was asked for.
pub(super) fn common_name_matches(der: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Some(certificate) = read(der) else { return false };
    let Ok(alternatives) = certificate.tbs_certificate.get::<SubjectAltName>() else {
        return false;
    };
    let alternatives = alternatives.map(|(_, names)| names.0).unwrap_or_default();
    let Some(name) = common_name(&certificate.tbs_certificate.subject) else {
        return false;
    };
    match host {
        ServerName::DnsName(host) => {
            !alternatives.iter().any(|name| matches!(name, GeneralName::DnsName(_))) && matches(&name, host.as_ref())
        }
        ServerName::IpAddress(host) => {
            !alternatives
                .iter()
                .any(|name| matches!(name, GeneralName::IpAddress(_) | GeneralName::DnsName(_)))
                && name.parse::<IpAddr>().is_ok_and(|name| name == IpAddr::from(*host))
        }
        _ => false,
    }
}

fn common_name(subject: &Name) -> Option<String> {
    let mut attributes = subject.0.iter().flat_map(|part| part.0.iter());
    let value = &attributes.find(|attribute| attribute.oid == COMMON_NAME)?.value;
    let text = matches!(
        value.tag(),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString
    );
    String::from_utf8(value.value().to_vec()).ok().filter(|_| text)
}

/// Case does not matter; a leading `*.` stands for one label.
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => host
            .split_once('.')
            .is_some_and(|(label, tail)| !label.is_empty() && tail.eq_ignore_ascii_case(rest)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate(pem: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    fn host(name: &str) -> ServerName<'_> {
        ServerName::try_from(name).unwrap()
    }

    #[test]
    fn the_binding_uses_the_hash_of_the_signature() {
        // The first bytes as `openssl dgst` prints them for the whole certificate.
        for (pem, length, start) in [
            (
                &include_bytes!("testdata/common-name.pem")[..],
                48,
                [0x70, 0x90, 0x05, 0x7c],
            ),
            (
                include_bytes!("testdata/alternative-name.pem"),
                32,
                [0x75, 0x9d, 0x58, 0x81],
            ),
            (
                include_bytes!("testdata/self-signed-pss.pem"),
                64,
                [0xdd, 0x50, 0x3e, 0x9c],
            ),
        ] {
            let hash = end_point_hash(&certificate(pem)).unwrap();
            assert_eq!((hash.len(), &hash[..4]), (length, &start[..]));
        }
    }

    #[test]
    fn the_common_name_counts_only_without_alternatives() {
        let common = certificate(include_bytes!("testdata/common-name.pem"));
        assert!(common_name_matches(&common, &host("db.example.org")));
        assert!(!common_name_matches(&common, &host("example.org")));
        assert!(!common_name_matches(&common, &host("10.0.0.1")));
        let alternative = certificate(include_bytes!("testdata/alternative-name.pem"));
        assert!(!common_name_matches(&alternative, &host("db.example.org")));
        let address = certificate(include_bytes!("testdata/self-signed-pss.pem"));
        assert!(common_name_matches(&address, &host("10.0.0.2")));
        assert!(!common_name_matches(&address, &host("10.0.0.3")));
    }

    #[test]
    fn dates_are_checked() {
        let certificate = certificate(include_bytes!("testdata/common-name.pem"));
        let at = |seconds| check_dates(&certificate, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(at(1_000_000_000), Err(CertificateError::NotValidYet));
        assert_eq!(at(2_000_000_000), Ok(()));
        assert_eq!(at(3_000_000_000), Err(CertificateError::Expired));
    }

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(matches("db.example.org", "DB.example.org"));
        assert!(matches("*.example.org", "db.example.org"));
        for (pattern, host) in [
            ("*.example.org", "a.db.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", ".example.org"),
            ("*", "db"),
            ("d*.example.org", "db.example.org"),
            ("db.example.org", "db.example.org.evil"),
        ] {
            assert!(!matches(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn what_cannot_be_read_never_matches() {
        let garbage = CertificateDer::from(vec![0x30, 0x03, 0x01, 0x01]);
        assert_eq!(end_point_hash(&garbage), None);
        assert_eq!(public_key(&garbage), None);
        assert!(!is_self_signed(&garbage) && !is_version_1(&garbage));
        assert!(!common_name_matches(&garbage, &ServerName::try_from("h").unwrap()));
        assert!(check_dates(&garbage, UnixTime::now()).is_err());
    }
}
