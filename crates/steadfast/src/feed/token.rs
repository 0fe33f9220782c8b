//! Where to resume: the sequence, the epoch it belongs to, and the mark of the event there.
//!
//! Invariant: a token resumes exactly behind its event, or is refused; text that is no token is refused.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A place in a feed, as text `sf1-<epoch>-<sequence>-<mark>`. Keep it wherever the results of processing are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    pub(crate) epoch: Uuid,
    pub(crate) sequence: u64,
    pub(crate) mark: i64,
}

impl Token {
    /// The last sequence before the place.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// The text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token of the change feed")]
pub struct InvalidFeedToken;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sf1-{}-{}-{:x}", self.epoch.simple(), self.sequence, self.mark)
    }
}

impl FromStr for Token {
    type Err = InvalidFeedToken;

    fn from_str(text: &str) -> Result<Self, InvalidFeedToken> {
        let mut parts = text.split('-');
        let parsed = (|| {
            (parts.next()? == "sf1").then_some(())?;
            let epoch = Uuid::try_parse(parts.next()?).ok()?;
            let sequence = parts.next()?.parse().ok()?;
            let mark = u64::from_str_radix(parts.next()?, 16).ok()?.cast_signed();
            parts.next().is_none().then_some(Self { epoch, sequence, mark })
        })();
        // What would be written otherwise (signs, capitals, leading zeros) is no token of ours.
        parsed.filter(|t| t.to_string() == text).ok_or(InvalidFeedToken)
    }
}

impl serde::Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_come_back(epoch in any::<u128>(), sequence in any::<u64>(), mark in any::<i64>()) {
            let token = Token { epoch: Uuid::from_u128(epoch), sequence, mark };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
            let json = serde_json::to_string(&token).unwrap();
            prop_assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
        }

        #[test]
        fn two_tokens_never_share_a_text(a in any::<(u64, i64)>(), b in any::<(u64, i64)>()) {
            let token = |(sequence, mark)| Token { epoch: Uuid::nil(), sequence, mark };
            prop_assert_eq!(a == b, token(a).to_string() == token(b).to_string());
        }

        #[test]
        fn other_text_is_refused_and_nothing_panics(text in "(sf1-)?[-+0-9a-fA-Fx ]{0,60}|.{0,40}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
