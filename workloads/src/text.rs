//! Text of bounded length, held in the row itself.

use std::{fmt, io};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Up to `N` bytes of text in `N` bytes: the unused end is filled with zero bytes, which no text contains.
///
/// ```
/// use mixlog_workloads::text::Text;
/// let text = Text::<16>::new(b"BARBARBAR");
/// assert_eq!(text.as_bytes(), b"BARBARBAR");
/// ```
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoBytes, FromBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// The text without any character.
    pub const EMPTY: Self = Self([0; N]);

    /// What no text comes behind, for ranges: it is none itself.
    pub const LAST: Self = Self([u8::MAX; N]);

    /// A text of these bytes.
    ///
    /// # Panics
    /// If the bytes are too many or one of them is zero.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        assert!(text.len() <= N && !text.contains(&0), "text of at most {N} bytes, without a zero byte");
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        Self(bytes)
    }

    /// A text of `length` bytes that `fill` writes.
    ///
    /// # Panics
    /// If the length is greater than `N`.
    pub fn filled(length: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = [0; N];
        fill(&mut bytes[..length]);
        Self(bytes)
    }

    /// What `write` writes.
    ///
    /// # Panics
    /// If it writes more than `N` bytes.
    pub fn written(write: impl FnOnce(&mut &mut [u8]) -> io::Result<()>) -> Self {
        let mut bytes = [0; N];
        let written = write(&mut bytes.as_mut_slice());
        assert!(written.is_ok(), "text of at most {N} bytes");
        Self(bytes)
    }

    /// The characters, without the unused end.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(N);
        &self.0[..length]
    }

    /// All `N` bytes, with the unused end.
    #[must_use]
    pub const fn padded(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.as_bytes()), f)
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize(deserializer)
    }
}

/// Serde for values of a fixed layout: one copy of their bytes instead of a visit to each field.
///
/// Replies are encoded for the digest on every replica, so that their texts are on the hot path.
pub mod bytes {
    use std::marker::PhantomData;

    use super::{Deserializer, FromBytes, Immutable, IntoBytes, Serializer, de, fmt};

    /// Writes the value's bytes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: IntoBytes + Immutable, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value.as_bytes())
    }

    /// Reads a value from its bytes.
    ///
    /// # Errors
    /// Those of the deserializer, and a number of bytes that is not the value's.
    pub fn deserialize<'de, T: FromBytes, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: FromBytes> de::Visitor<'de> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} bytes", size_of::<T>())
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<T, E> {
                T::read_from_bytes(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
                let mut bytes = Vec::with_capacity(size_of::<T>());
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                self.visit_bytes(&bytes)
            }
        }
        deserializer.deserialize_bytes(Visitor(PhantomData))
    }
}

/// Serde for a list of values of a fixed layout, as [`bytes`] is for one.
pub mod byte_list {
    use std::marker::PhantomData;

    use super::{Deserializer, FromBytes, Immutable, IntoBytes, Serializer, de, fmt};

    /// Writes the bytes of all values, one after the other.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: IntoBytes + Immutable, S: Serializer>(
        list: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(list.as_bytes())
    }

    /// Reads as many values as the bytes hold.
    ///
    /// # Errors
    /// Those of the deserializer, and a number of bytes that is no multiple of a value's.
    pub fn deserialize<'de, T: FromBytes, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: FromBytes> de::Visitor<'de> for Visitor<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a multiple of {} bytes", size_of::<T>())
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<T>, E> {
                let chunks = bytes.chunks(size_of::<T>());
                let values = chunks.map(|chunk| T::read_from_bytes(chunk)).collect::<Result<_, _>>();
                values.map_err(|_| E::invalid_length(bytes.len(), &self))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                self.visit_bytes(&bytes)
            }
        }
        deserializer.deserialize_bytes(Visitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_the_first_zero_byte() {
        let text = Text::<8>::new(b"abc");
        assert_eq!(text.as_bytes(), b"abc");
        assert_eq!(text.padded(), b"abc\0\0\0\0\0");
        assert_eq!(text.to_string(), "abc");
        assert_eq!(Text::<3>::new(b"abc").as_bytes(), b"abc");
    }

    #[test]
    fn text_survives_serde() {
        let text = Text::<8>::new(b"abc");
        let json = serde_json::to_string(&text).expect("text serializes");
        assert_eq!(serde_json::from_str::<Text<8>>(&json).expect("it reads back"), text);
        assert!(serde_json::from_str::<Text<9>>(&json).is_err(), "another length is refused");
    }
}
