//! As much of PostgreSQL's protocol as the proxy must understand: where messages end, and which SQL a request runs.

use std::collections::HashMap;
use std::sync::Arc;

const ENCRYPTION_CODES: [u32; 2] = [80_877_103, 80_877_104];

/// What a client sent, cut where it matters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The client asks for TLS or GSSAPI and waits for a one-byte answer.
    Encryption,
    /// A complete request, for whose answer the client waits, and the texts of what it executes.
    Request { bytes: Vec<u8>, texts: Vec<Arc<str>> },
    /// Anything else, such as the start-up, a password or a goodbye.
    Other(Vec<u8>),
}

/// The client's side of one connection.
#[derive(Default)]
pub(crate) struct Frontend {
    received: Vec<u8>,
    /// The start-up message has no type; all others have.
    started: bool,
    statements: HashMap<Vec<u8>, Arc<str>>,
    /// Messages of a request whose end has not come yet.
    pending: Vec<u8>,
    texts: Vec<Arc<str>>,
}

impl Frontend {
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next complete unit, once enough has been received.
    pub(crate) fn next(&mut self) -> Option<Unit> {
        if !self.started {
            let message = take(&mut self.received, 0)?;
            let code = message
                .get(4..8)
                .map(|code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]));
            if code.is_some_and(|code| ENCRYPTION_CODES.contains(&code)) {
                return Some(Unit::Encryption);
            }
            self.started = true;
            return Some(Unit::Other(message));
        }
        loop {
            let message = take(&mut self.received, 1)?;
            let (kind, body) = (message[0], &message[5..]);
            match kind {
                b'P' => {
                    let (name, rest) = string(body);
                    let text = String::from_utf8_lossy(string(rest).0).into_owned();
                    self.statements.insert(name.to_vec(), text.into());
                }
                b'B' => {
                    let (_portal, rest) = string(body);
                    self.texts.extend(self.statements.get(string(rest).0).cloned());
                }
                b'C' if body.first() == Some(&b'S') => {
                    self.statements.remove(string(&body[1..]).0);
                }
                b'Q' => self.texts.push(String::from_utf8_lossy(string(body).0).into()),
                _ => {}
            }
            self.pending.extend_from_slice(&message);
            match kind {
                b'S' | b'Q' | b'F' => {
                    let (bytes, texts) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.texts));
                    return Some(Unit::Request { bytes, texts });
                }
                // Parts of a request that goes on.
                b'P' | b'B' | b'C' | b'D' | b'E' => {}
                _ => return Some(Unit::Other(std::mem::take(&mut self.pending))),
            }
        }
    }
}

/// The server's side of one connection.
#[derive(Default)]
pub(crate) struct Backend {
    received: Vec<u8>,
}

impl Backend {
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next complete message, and whether it is the last one of an answer.
    pub(crate) fn next(&mut self) -> Option<(Vec<u8>, bool)> {
        let message = take(&mut self.received, 1)?;
        let ends_answer = message[0] == b'Z';
        Some((message, ends_answer))
    }
}

/// Takes a whole message from the front of a buffer. Its length stands after `prefix` bytes, and includes itself.
fn take(received: &mut Vec<u8>, prefix: usize) -> Option<Vec<u8>> {
    let length = received.get(prefix..prefix + 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    assert!(length >= 4, "not PostgreSQL's protocol: {received:?}");
    if received.len() < prefix + length {
        return None;
    }
    let rest = received.split_off(prefix + length);
    Some(std::mem::replace(received, rest))
}

/// A zero-terminated string at the front, and what follows it.
fn string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    //! Framing must not depend on how the bytes were cut on their way.

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    fn startup() -> Vec<u8> {
        [8_u32.to_be_bytes(), 196_608_u32.to_be_bytes()].concat()
    }

    fn units(bytes: &[u8], piece: usize) -> Vec<Unit> {
        let mut frontend = Frontend::default();
        let mut units = Vec::new();
        for piece in bytes.chunks(piece) {
            frontend.receive(piece);
            units.extend(std::iter::from_fn(|| frontend.next()));
        }
        units
    }

    #[test]
    fn a_prepared_statement_is_known_by_its_text() {
        let prepare = [message(b'P', b"s1\0SELECT one\0\0\0"), message(b'S', b"")].concat();
        let execute = [
            message(b'B', b"\0s1\0\0\0\0\0\0\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ]
        .concat();
        let close = [message(b'C', b"Ss1\0"), message(b'S', b"")].concat();
        let goodbye = message(b'X', b"");
        let all = [
            startup(),
            prepare.clone(),
            execute.clone(),
            close.clone(),
            execute.clone(),
            goodbye.clone(),
        ]
        .concat();
        let request = |bytes: &Vec<u8>, texts: &[&str]| Unit::Request {
            bytes: bytes.clone(),
            texts: texts.iter().map(|text| Arc::from(*text)).collect(),
        };
        let expected = vec![
            Unit::Other(startup()),
            request(&prepare, &[]),
            request(&execute, &["SELECT one"]),
            request(&close, &[]),
            request(&execute, &[]),
            Unit::Other(goodbye),
        ];
        for piece in [1, 2, 7, all.len()] {
            assert_eq!(units(&all, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_simple_query_is_a_request() {
        let query = message(b'Q', b"BEGIN; COMMIT\0");
        let bytes = [startup(), query.clone()].concat();
        let request = Unit::Request {
            bytes: query,
            texts: vec!["BEGIN; COMMIT".into()],
        };
        assert_eq!(units(&bytes, 3), [Unit::Other(startup()), request]);
    }

    #[test]
    fn a_wish_for_encryption_comes_before_the_start() {
        let wish = [8_u32.to_be_bytes(), ENCRYPTION_CODES[0].to_be_bytes()].concat();
        let bytes = [wish, startup()].concat();
        assert_eq!(units(&bytes, 5), [Unit::Encryption, Unit::Other(startup())]);
    }

    #[test]
    fn an_answer_ends_when_the_server_is_ready() {
        let bytes = [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
        let mut backend = Backend::default();
        backend.receive(&bytes[..8]);
        assert_eq!(backend.next(), None);
        backend.receive(&bytes[8..]);
        assert_eq!(backend.next().map(|(_, ends)| ends), Some(false));
        assert_eq!(backend.next().map(|(_, ends)| ends), Some(true));
        assert_eq!(backend.next(), None);
    }
}
