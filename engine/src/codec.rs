//! How keys, rows, arguments and replies become bytes: for digests, and for the log.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use zerocopy::{Immutable, IntoBytes, TryFromBytes};

use crate::infer::Leaves;

/// Canonical bytes of a key or row: equal values give equal bytes on every machine.
///
/// Chosen per table: [`Serde`] takes any serde type, [`Fixed`] the bytes of a plain fixed-size type as they
/// lie in memory.
pub trait Codec<T>: Send + Sync + 'static {
    /// Its name in checkpoints: rows written by one codec are not read by another.
    const NAME: &'static str = "custom";

    /// How many bytes every value has, if that is fixed.
    const BYTES: Option<usize> = None;

    /// Calls `read` with the value's bytes; `scratch` may be used to build them.
    fn with_bytes<R>(value: &T, scratch: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> R) -> R;

    /// The value whose bytes these are.
    ///
    /// # Errors
    /// [`DecodeError`] for any other bytes; it must not panic.
    fn from_bytes(bytes: &[u8]) -> Result<T, DecodeError>;

    /// Takes a key apart into what it may have been made of, so that the engine can tell how keys follow from arguments.
    /// Tells whether it did; not for codecs whose bytes it does not know.
    #[doc(hidden)]
    fn take_apart(value: &T, leaves: &mut Leaves) -> bool {
        let _ = (value, leaves);
        false
    }

    /// The value as people read it, for reports: its bytes in hexadecimal, unless the codec knows better. Nothing is
    /// computed from it, and it may change.
    fn describe(value: &T) -> String {
        Self::with_bytes(value, &mut Vec::new(), hexadecimal)
    }
}

/// The unsigned integer of these 2, 4 or 8 bytes, in the machine's order.
pub(crate) fn native(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text takes all");
        text
    })
}

/// Any serde type, in postcard's format.
///
/// Cost: about 100 ns for a row of ten fields.
#[derive(Clone, Copy, Debug)]
pub struct Serde;

/// A type without padding, as it lies in memory: free.
///
/// Machines that compare digests must agree in byte order, or the type must fix it (zerocopy's
/// `little_endian` integers do).
#[derive(Clone, Copy, Debug)]
pub struct Fixed;

impl<T: Serialize + DeserializeOwned> Codec<T> for Serde {
    const NAME: &'static str = "postcard";

    fn with_bytes<R>(value: &T, scratch: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> R) -> R {
        scratch.clear();
        encode(value, scratch);
        read(scratch)
    }

    fn from_bytes(bytes: &[u8]) -> Result<T, DecodeError> {
        decode(bytes)
    }

    fn take_apart(value: &T, leaves: &mut Leaves) -> bool {
        leaves.take_key_apart(value)
    }

    /// As JSON.
    fn describe(value: &T) -> String {
        serde_json::to_string(value).unwrap_or_else(|_| Self::with_bytes(value, &mut Vec::new(), hexadecimal))
    }
}

impl<T: IntoBytes + Immutable + TryFromBytes> Codec<T> for Fixed {
    const NAME: &'static str = "fixed";
    const BYTES: Option<usize> = Some(size_of::<T>());

    #[inline]
    fn with_bytes<R>(value: &T, _scratch: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> R) -> R {
        read(value.as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Result<T, DecodeError> {
        T::try_read_from_bytes(bytes).map_err(|_| {
            DecodeError::new(format!("{} bytes are no {}", bytes.len(), std::any::type_name::<T>()))
        })
    }

    fn take_apart(value: &T, leaves: &mut Leaves) -> bool {
        leaves.take_bytes_apart(value.as_bytes(), align_of::<T>())
    }

    /// As the unsigned integers of which a plain type without padding most likely consists: those of its alignment.
    fn describe(value: &T) -> String {
        let bytes = value.as_bytes();
        let integer = |bytes: &[u8]| native(bytes).map_or_else(|| hexadecimal(bytes), |n| n.to_string());
        match align_of::<T>() {
            1 if bytes.len() == 1 => bytes[0].to_string(),
            1 => hexadecimal(bytes),
            size if size == bytes.len() => integer(bytes),
            size => format!("({})", bytes.chunks(size).map(integer).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Bytes that are not what they should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    /// An error that tells what is wrong with the bytes.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Appends the value to `out` in postcard's format.
///
/// # Panics
/// When the type's `Serialize` refuses the value or needs to know a length that it does not tell: a bug of the
/// type.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    struct Tail<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Tail<'_> {
        type Output = ();
        #[inline]
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        #[inline]
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    postcard::serialize_with_flavor(value, Tail(out)).expect("the type serializes every value");
}

/// The value that [`encode`] wrote; all of `bytes` must belong to it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::new(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(DecodeError::new(error.to_string())),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn describe_tells_what_people_would_write() {
        assert_eq!(<Serde as Codec<_>>::describe(&("hot".to_owned(), 7u64)), r#"["hot",7]"#);
        assert_eq!(<Serde as Codec<_>>::describe(&-3i64), "-3");
        assert_eq!(<Fixed as Codec<_>>::describe(&7u64), "7");
        assert_eq!(<Fixed as Codec<_>>::describe(&[1u32, 3]), "(1, 3)");
        assert_eq!(<Fixed as Codec<_>>::describe(&9u8), "9");
        assert_eq!(<Fixed as Codec<_>>::describe(&[1u8, 0xff, 0]), "0x01ff00");
    }
}
