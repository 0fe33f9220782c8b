//! Bounds what a server may send before it is known, and what it may send unasked.
//!
//! Invariant: until the first `ReadyForQuery` no message is larger than [`MESSAGE`] and all of them together not larger than
//! [`OPENING`]; nobody makes us compute more rounds of SCRAM than [`ROUNDS`]; afterwards what comes unasked is bounded too.
//! The length words are judged as they arrive, so a message that is too large is never gathered in memory. The size of
//! answers is the caller's business: it has asked for them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest message of an opening. libpq takes errors of 30,000 bytes, and everything else of 2,000.
const MESSAGE: u64 = 64 << 10;
/// All messages of an opening together: parameters, and notices of login triggers.
const OPENING: u64 = 1 << 20;
/// Largest message that comes unasked later: a notice, a notification, a parameter.
const UNASKED: u64 = 1 << 20;
/// All parameters that one connection reports in its life: the driver keeps what it has been told.
const PARAMETERS: u64 = 16 << 20;
/// Most rounds of SCRAM's key derivation: they are computed on the thread that connects, where no deadline reaches.
const ROUNDS: u64 = 1_000_000;

/// What a server did that no PostgreSQL does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("the server sent a message of {0} bytes before it was ready for queries; that is no PostgreSQL")]
    Message(u64),
    #[error("the server sent more than {OPENING} bytes before it was ready for queries; that is no PostgreSQL")]
    Opening,
    #[error("the server sent {0} bytes unasked")]
    Unasked(u64),
    #[error("the server reported more than {PARAMETERS} bytes of parameters")]
    Parameters,
    #[error("the server's SCRAM secret has {0} iterations; more than {ROUNDS} are not computed")]
    Rounds(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// One byte that says whether TLS follows.
    TlsAnswer,
    Opening,
    Open,
    /// What passes is encrypted: another guard stands above.
    Off,
}

/// Follows the messages of one direction, byte by byte.
#[derive(Debug)]
pub(crate) struct Guard {
    phase: Phase,
    header: [u8; 5],
    filled: usize,
    /// Bytes of the current message still to come.
    rest: u64,
    /// The current message, where its content matters.
    content: Vec<u8>,
    opening: u64,
    parameters: u64,
}

impl Guard {
    fn in_phase(phase: Phase) -> Self {
        Self {
            phase,
            header: [0; 5],
            filled: 0,
            rest: 0,
            content: Vec::new(),
            opening: 0,
            parameters: 0,
        }
    }

    /// The server speaks first in its protocol's messages.
    pub(crate) fn messages() -> Self {
        Self::in_phase(Phase::Opening)
    }

    /// The server first answers in one byte whether it has TLS.
    pub(crate) fn tls_answer() -> Self {
        Self::in_phase(Phase::TlsAnswer)
    }

    /// Everything is encrypted from the first byte on.
    pub(crate) fn off() -> Self {
        Self::in_phase(Phase::Off)
    }

    /// Judges what has come.
    fn see(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some((first, others)) = bytes.split_first() {
            if self.phase == Phase::Off {
                return Ok(());
            }
            if self.phase == Phase::TlsAnswer {
                self.phase = if *first == b'S' { Phase::Off } else { Phase::Opening };
                bytes = others;
            } else if self.filled < self.header.len() {
                self.header[self.filled] = *first;
                self.filled += 1;
                bytes = others;
                if self.filled == self.header.len() {
                    self.begin()?;
                }
            } else {
                let taken = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len());
                let (now, later) = bytes.split_at(taken);
                if self.content_matters() {
                    self.content.extend_from_slice(now);
                }
                self.rest -= taken as u64;
                bytes = later;
                if self.rest == 0 {
                    self.end()?;
                }
            }
        }
        Ok(())
    }

    fn content_matters(&self) -> bool {
        self.phase == Phase::Opening && self.header[0] == b'R'
    }

    /// A message begins: its kind and length are known.
    fn begin(&mut self) -> Result<(), Violation> {
        let [kind, length @ ..] = self.header;
        // The length counts itself.
        self.rest = u64::from(u32::from_be_bytes(length)).saturating_sub(4);
        match (self.phase, kind) {
            (Phase::Opening, _) => {
                if self.rest > MESSAGE {
                    return Err(Violation::Message(self.rest));
                }
                self.opening += self.rest;
                if self.opening > OPENING {
                    return Err(Violation::Opening);
                }
            }
            (_, b'N' | b'S' | b'A') if self.rest > UNASKED => return Err(Violation::Unasked(self.rest)),
            (_, b'S') => {
                self.parameters += self.rest;
                if self.parameters > PARAMETERS {
                    return Err(Violation::Parameters);
                }
            }
            _ => {}
        }
        if self.rest == 0 { self.end() } else { Ok(()) }
    }

    /// A message is complete.
    fn end(&mut self) -> Result<(), Violation> {
        self.filled = 0;
        if self.phase == Phase::Opening && self.header[0] == b'Z' {
            self.phase = Phase::Open;
        }
        let content = std::mem::take(&mut self.content);
        match scram_rounds(&content) {
            Some(rounds) if rounds > ROUNDS => Err(Violation::Rounds(rounds)),
            _ => Ok(()),
        }
    }
}

/// The rounds that an AuthenticationSASLContinue asks for (`r=…,s=…,i=4096`).
fn scram_rounds(authentication: &[u8]) -> Option<u64> {
    let text = authentication.strip_prefix(&11_u32.to_be_bytes())?;
    let field = text.split(|b| *b == b',').find_map(|field| field.strip_prefix(b"i="))?;
    let digits = field.iter().take_while(|b| b.is_ascii_digit());
    Some(digits.fold(0, |sum: u64, digit| {
        sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

/// A stream whose reading side is guarded.
pub(crate) struct Guarded<S> {
    stream: S,
    guard: Guard,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, guard: Guard) -> Self {
        Self { stream, guard }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let judged = self.guard.see(new);
        Poll::Ready(judged.map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], content].concat()
    }

    fn announced(kind: u8, length: u32) -> Vec<u8> {
        [&[kind], &length.to_be_bytes()[..]].concat()
    }

    /// In one piece, and byte by byte.
    fn judge(make: impl Fn() -> Guard, bytes: &[u8]) -> Result<(), Violation> {
        let whole = make().see(bytes);
        let mut guard = make();
        let pieces = bytes.iter().try_for_each(|byte| guard.see(&[*byte]));
        assert_eq!(whole, pieces);
        whole
    }

    #[test]
    fn an_opening_is_bounded_by_message_and_in_sum() {
        let ready = message(b'Z', b"I");
        let row = announced(b'D', 900 << 20);
        let opening = [message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), ready.clone(), row].concat();
        assert_eq!(judge(Guard::messages, &opening), Ok(()), "an answer may be large");
        let large = announced(b'R', 0x7fff_ffff);
        assert_eq!(judge(Guard::messages, &large), Err(Violation::Message(0x7fff_fffb)));
        let many = message(b'N', &[b'x'; 60 << 10]).repeat(18);
        assert_eq!(judge(Guard::messages, &many), Err(Violation::Opening));
    }

    #[test]
    fn what_comes_unasked_stays_bounded() {
        let ready = message(b'Z', b"I");
        let notice = [ready.clone(), announced(b'N', 0x7fff_ffff)].concat();
        assert_eq!(judge(Guard::messages, &notice), Err(Violation::Unasked(0x7fff_fffb)));
        let notices = [ready.clone(), message(b'N', &[b'x'; 1 << 20]).repeat(20)].concat();
        assert_eq!(Guard::messages().see(&notices), Ok(()), "nobody keeps them");
        let parameters = [ready, message(b'S', &[b'x'; 1 << 20]).repeat(17)].concat();
        assert_eq!(Guard::messages().see(&parameters), Err(Violation::Parameters));
    }

    #[test]
    fn scram_may_not_cost_minutes() {
        let asks = |rounds: &str| {
            message(
                b'R',
                &[&[0, 0, 0, 11], format!("r=abc,s=c2FsdA==,i={rounds}").as_bytes()].concat(),
            )
        };
        assert_eq!(judge(Guard::messages, &asks("4096")), Ok(()));
        assert_eq!(
            judge(Guard::messages, &asks("4294967295")),
            Err(Violation::Rounds(4_294_967_295))
        );
        assert_eq!(
            judge(Guard::messages, &asks(&"9".repeat(40))),
            Err(Violation::Rounds(u64::MAX))
        );
    }

    #[test]
    fn the_answer_about_tls_is_no_message() {
        let large = announced(b'E', 0x7fff_ffff);
        let plain = [&b"N"[..], &large].concat();
        assert!(judge(Guard::tls_answer, &plain).is_err());
        let encrypted = [&b"S"[..], &large].concat();
        assert_eq!(judge(Guard::tls_answer, &encrypted), Ok(()), "not ours to read");
    }
}
