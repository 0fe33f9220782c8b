//! Parameters of a call, with the types that PostgreSQL is told, so that a call needs no describe round trip.
//!
//! Invariant: built-in types only; a call of N operations has as many parameters as a call of one.

use tokio_postgres::types::{ToSql, Type};

/// Values in the order of the function's parameters.
#[derive(Default)]
pub(crate) struct Params {
    values: Vec<Box<dyn ToSql + Sync + Send>>,
    types: Vec<Type>,
    slow: bool,
}

macro_rules! adders {
    ($($name:ident: $value:ty => $type:ident),* $(,)?) => {
        $(pub(crate) fn $name(mut self, value: $value) -> Self {
            self.values.push(Box::new(value));
            self.types.push(Type::$type);
            self
        })*
    };
}

impl Params {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    adders! {
        uuid: uuid::Uuid => UUID,
        flag: bool => BOOL,
        int: i32 => INT4,
        big: i64 => INT8,
        big_opt: Option<i64> => INT8,
        small: i16 => INT2,
        text: String => TEXT,
        text_opt: Option<String> => TEXT,
        bytes: Vec<u8> => BYTEA,
        bytes_opt: Option<Vec<u8>> => BYTEA,
        flags: Vec<bool> => BOOL_ARRAY,
        smalls: Vec<i16> => INT2_ARRAY,
        maybe_smalls: Option<Vec<i16>> => INT2_ARRAY,
        ints: Vec<i32> => INT4_ARRAY,
        bigs: Vec<i64> => INT8_ARRAY,
        maybe_bigs: Option<Vec<i64>> => INT8_ARRAY,
        bigs_opt: Vec<Option<i64>> => INT8_ARRAY,
        texts: Vec<String> => TEXT_ARRAY,
        texts_opt: Vec<Option<String>> => TEXT_ARRAY,
        maybe_texts: Option<Vec<String>> => TEXT_ARRAY,
        byteas: Vec<Vec<u8>> => BYTEA_ARRAY,
        byteas_opt: Vec<Option<Vec<u8>>> => BYTEA_ARRAY,
        maybe_byteas: Option<Vec<Vec<u8>>> => BYTEA_ARRAY,
    }

    /// These, and behind them those of a second function.
    pub(crate) fn followed_by(mut self, second: Self) -> Self {
        self.values.extend(second.values);
        self.types.extend(second.types);
        self
    }

    /// The call may take minutes: an administrator's, over many rows.
    pub(crate) fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    pub(crate) fn types(&self) -> &[Type] {
        &self.types
    }

    pub(crate) fn refs(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|v| v.as_ref() as &(dyn ToSql + Sync)).collect()
    }

    pub(crate) fn typed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.values
            .iter()
            .map(|v| v.as_ref() as &(dyn ToSql + Sync))
            .zip(self.types.iter().cloned())
            .collect()
    }
}
