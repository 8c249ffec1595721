//! A value as what it consists of: numbers and texts, in the order in which serde names them.
//!
//! ```text
//! Order { account: 7, side: Buy, lines: [Line { item: 1, count: 2 }, Line { item: 9, count: 1 }] }
//!
//! outer      7, variant 0                 shape: that the variant is 0
//! list 0     element 0: 1, 2              each with a shape of its own
//!            element 1: 9, 1
//! ```
//!
//! Values of one shape have their leaves in the same places.

use std::fmt;

use serde::ser::{self, Serialize};

use crate::codec::native;

/// How many leaves outside of lists are kept, and how many of an element. Whatever follows is passed over.
pub(super) const MOST_OUTER: usize = 32;
pub(super) const MOST_INNER: usize = 16;
/// How many elements of lists are kept in all.
const MOST_ELEMENTS: usize = 256;
/// Values with more leaves outside of lists than this, or elements, whether they are kept or not, are too long to look at.
const MOST: u32 = 8192;
/// How many bytes of texts are kept in all: examples are copies. Texts that do not fit are in no key.
const MOST_TEXT: usize = 4096;

/// What a leaf is, as far as its bytes in a key tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One byte in postcard's format.
    Byte,
    /// A variable-length integer in postcard's format.
    Unsigned,
    /// The same, with the sign in the lowest bit.
    Signed,
    Char,
    /// The place of a text, or of bytes, among the texts.
    Text,
    /// So many bytes in the order of the machine.
    Native(u8),
    /// So many bytes, the lowest first.
    Little(u8),
    /// Nothing that a key can be made of.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) kind: Kind,
    /// Signed integers as two's complement. For texts, where they start (upper half) and how long they are.
    pub(super) number: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Element {
    pub(super) shape: u64,
    /// Its leaves among the inner ones.
    pub(super) start: u32,
    pub(super) end: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ListOf {
    /// Where its elements end; they start where those of the list before end.
    end: u32,
    /// How many leaves and lists there were outside of lists, this one included.
    pub(super) seen: u32,
    /// Whether it had more elements than were kept.
    pub(super) is_cut: bool,
}

/// What the parts of a value are called, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// The field at hand.
    field: &'static str,
    pub(super) outer: Vec<&'static str>,
    inner: Vec<&'static str>,
    pub(super) lists: Vec<&'static str>,
    /// What tells shapes apart: which element it is of, if it is of one, the field, and what is there.
    marks: Vec<(Option<u32>, &'static str, &'static str)>,
}

impl Names {
    pub(super) fn inner(&self, element: &Element) -> &[&'static str] {
        self.inner.get(element.start as usize..element.end as usize).unwrap_or_default()
    }

    /// What makes the shape of the value, or of an element.
    pub(super) fn shape(&self, element: Option<u32>) -> Vec<String> {
        let of_it = self.marks.iter().filter(|(of, ..)| *of == element);
        of_it
            .map(
                |(_, field, what)| {
                    if field.is_empty() { (*what).to_owned() } else { format!("{field} is {what}") }
                },
            )
            .collect()
    }
}

/// How much of a value is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// After how many leaves and lists outside of lists to stop.
    pub(super) until: u32,
    /// How many leaves of each element are kept.
    pub(super) inner: usize,
    /// Whether it is noted what the parts are called.
    names: bool,
}

impl Reach {
    /// All of it.
    pub(crate) const ALL: Self = Self { until: u32::MAX, inner: MOST_INNER, names: true };

    /// What both of them look at, without the names.
    pub(super) fn with(self, other: Self) -> Self {
        Self { until: self.until.max(other.until), inner: self.inner.max(other.inner), names: false }
    }
}

/// See the module's documentation. Reused: its buffers stay.
#[derive(Clone, Debug, Default)]
pub struct Leaves {
    pub(super) outer: Vec<Leaf>,
    pub(super) shape: u64,
    pub(super) lists: Vec<ListOf>,
    pub(super) elements: Vec<Element>,
    inner: Vec<Leaf>,
    texts: Vec<u8>,
    /// Empty unless all of the value was taken apart.
    pub(super) names: Names,
    /// How many lists enclose what is looked at.
    depth: u32,
    /// How many elements there were in all, those of lists within elements included.
    entered: u32,
    /// Whether the list at hand has more elements than are kept.
    is_cut: bool,
    /// Up to how many inner leaves those of the element at hand are kept.
    room: usize,
    /// Of the element at hand.
    element_shape: u64,
    /// How many leaves and lists there were outside of lists, and whether that was enough.
    seen: u32,
    enough: bool,
    reach: Reach,
    /// How many there were when the newest variant was seen, which tells shapes apart.
    pub(super) shaped: u32,
}

impl Leaves {
    fn clear(&mut self) {
        self.outer.clear();
        self.lists.clear();
        self.elements.clear();
        self.inner.clear();
        self.texts.clear();
        for names in [&mut self.names.outer, &mut self.names.inner, &mut self.names.lists] {
            names.clear();
        }
        self.names.marks.clear();
        self.names.field = "";
        (self.shape, self.depth, self.element_shape) = (0, 0, 0);
        (self.seen, self.shaped, self.entered) = (0, 0, 0);
        (self.enough, self.is_cut) = (false, false);
    }

    /// Takes a value apart, as far as asked for. Tells whether that could be done.
    pub(crate) fn take_apart<T: Serialize + ?Sized>(&mut self, value: &T, reach: Reach) -> bool {
        self.clear();
        self.reach = reach;
        value.serialize(&mut *self).is_ok() || self.enough
    }

    /// Takes a key apart, of which all is needed.
    pub(crate) fn take_key_apart<T: Serialize>(&mut self, key: &T) -> bool {
        self.take_apart(key, Reach { names: false, ..Reach::ALL })
            && self.lists.is_empty()
            && self.seen as usize == self.outer.len()
    }

    /// Takes the bytes of a plain fixed-size type apart: the integers of which it most likely consists.
    pub(crate) fn take_bytes_apart(&mut self, bytes: &[u8], align: usize) -> bool {
        self.clear();
        match align {
            1 if bytes.len() <= 8 => {
                // Such as the integers of `zerocopy`, which have a byte order of their own.
                let mut wide = [0; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                let number = u64::from_le_bytes(wide);
                self.outer.push(Leaf { kind: Kind::Little(bytes.len() as u8), number });
            }
            2 | 4 | 8 if bytes.len() / align <= MOST_OUTER => {
                let kind = Kind::Native(align as u8);
                let numbers = bytes.chunks(align).filter_map(native);
                self.outer.extend(numbers.map(|number| Leaf { kind, number }));
            }
            _ => return false,
        }
        true
    }

    /// After how many leaves and lists outside of lists the outer leaf with this number was seen.
    pub(super) fn seen_with(&self, outer: usize) -> u32 {
        self.lists.iter().fold(outer as u32 + 1, |seen, list| seen + u32::from(list.seen <= seen))
    }

    pub(super) fn list(&self, list: usize) -> &[Element] {
        let Some(of) = self.lists.get(list) else { return &[] };
        &self.elements[self.start_of(list) as usize..of.end as usize]
    }

    /// Where the elements of a list start among all.
    pub(super) fn start_of(&self, list: usize) -> u32 {
        list.checked_sub(1).map_or(0, |before| self.lists[before].end)
    }

    #[inline]
    pub(super) fn inner(&self, element: &Element) -> &[Leaf] {
        &self.inner[element.start as usize..element.end as usize]
    }

    /// The bytes of a text.
    pub(super) fn text(&self, leaf: Leaf) -> &[u8] {
        let (start, length) = ((leaf.number >> 32) as usize, leaf.number as u32 as usize);
        &self.texts[start..start + length]
    }

    /// Counts a leaf or list outside of lists.
    #[inline]
    const fn see(&mut self) -> Result<(), Stop> {
        if self.seen == self.reach.until || self.seen == MOST {
            self.enough = self.seen == self.reach.until;
            return Err(Stop);
        }
        self.seen += 1;
        Ok(())
    }

    /// Part of every walk, several times for each element of a list: that most are not kept is seen without a call.
    #[inline(always)]
    fn leaf(&mut self, kind: Kind, number: u64) -> Result<(), Stop> {
        if self.depth == 0 {
            return self.outer_leaf(kind, number);
        }
        if self.inner.len() < self.room {
            self.inner.push(Leaf { kind, number });
            if self.reach.names {
                self.names.inner.push(self.names.field);
            }
        }
        Ok(())
    }

    fn outer_leaf(&mut self, kind: Kind, number: u64) -> Result<(), Stop> {
        self.see()?;
        if self.outer.len() < MOST_OUTER {
            self.outer.push(Leaf { kind, number });
            if self.reach.names {
                self.names.outer.push(self.names.field);
            }
        }
        Ok(())
    }

    fn put_text(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let start = self.texts.len();
        if start + bytes.len() > MOST_TEXT {
            return self.leaf(Kind::Other, 0);
        }
        self.texts.extend_from_slice(bytes);
        self.leaf(Kind::Text, (start as u64) << 32 | bytes.len() as u64)
    }

    /// What tells shapes apart, and what people call it.
    #[inline]
    fn mark(&mut self, mark: u64, name: &'static str) {
        if self.reach.names && !self.is_cut {
            self.name_mark(name);
        }
        let shape = if self.depth == 0 { &mut self.shape } else { &mut self.element_shape };
        *shape = (*shape ^ (mark + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        if self.depth == 0 {
            self.shaped = self.seen;
        }
    }

    #[cold]
    fn name_mark(&mut self, name: &'static str) {
        let element = (self.depth > 0).then(|| (self.elements.len() as u32).saturating_sub(1));
        self.names.marks.push((element, self.names.field, name));
    }

    #[inline]
    fn variant(&mut self, index: u32, name: &'static str) -> Result<(), Stop> {
        self.leaf(Kind::Unsigned, u64::from(index))?;
        self.mark(u64::from(index), name);
        Ok(())
    }

    #[inline]
    fn flag(&mut self, flag: bool, name: &'static str) -> Result<(), Stop> {
        self.leaf(Kind::Byte, u64::from(flag))?;
        self.mark(u64::from(flag), name);
        Ok(())
    }
}

/// Enough was seen, or too much.
#[derive(Debug)]
pub struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not taken apart any further")
    }
}
impl std::error::Error for Stop {}
impl ser::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// The elements of a list, or the entries of a map.
pub struct List<'a> {
    leaves: &'a mut Leaves,
    elements: u64,
}

impl List<'_> {
    #[inline]
    fn begin(&mut self) -> Result<(), Stop> {
        self.elements += 1;
        let leaves = &mut *self.leaves;
        leaves.entered += 1;
        if leaves.entered > MOST {
            return Err(Stop);
        }
        if leaves.depth == 1 {
            let start = leaves.inner.len();
            leaves.is_cut = leaves.elements.len() == MOST_ELEMENTS;
            leaves.room = if leaves.is_cut { 0 } else { start + leaves.reach.inner };
            leaves.element_shape = 0;
            if !leaves.is_cut {
                leaves.elements.push(Element { shape: 0, start: start as u32, end: start as u32 });
            }
        }
        Ok(())
    }

    #[inline]
    fn end(&mut self) {
        let leaves = &mut *self.leaves;
        if leaves.depth == 1
            && !leaves.is_cut
            && let Some(element) = leaves.elements.last_mut()
        {
            (element.shape, element.end) = (leaves.element_shape, leaves.inner.len() as u32);
        }
    }

    fn close(self) {
        let leaves = self.leaves;
        if leaves.depth == 1 {
            let (end, is_cut) = (leaves.elements.len() as u32, std::mem::take(&mut leaves.is_cut));
            leaves.lists.push(ListOf { end, seen: leaves.seen, is_cut });
        } else {
            // A list within an element: its leaves are the element's.
            leaves.mark(self.elements, "a list");
        }
        leaves.depth -= 1;
    }
}

impl ser::SerializeSeq for List<'_> {
    type Ok = ();
    type Error = Stop;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        self.begin()?;
        value.serialize(&mut *self.leaves)?;
        self.end();
        Ok(())
    }

    fn end(self) -> Result<(), Stop> {
        self.close();
        Ok(())
    }
}

impl ser::SerializeMap for List<'_> {
    type Ok = ();
    type Error = Stop;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Stop> {
        self.begin()?;
        key.serialize(&mut *self.leaves)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        value.serialize(&mut *self.leaves)?;
        self.end();
        Ok(())
    }

    fn end(self) -> Result<(), Stop> {
        self.close();
        Ok(())
    }
}

/// What has a fixed number of parts: its leaves are those of its parts.
macro_rules! parts {
    ($($trait:ident :: $method:ident ( $($name:ident: $type:ty)? )),*) => {$(
        impl ser::$trait for &mut Leaves {
            type Ok = ();
            type Error = Stop;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $($name: $type,)? value: &T) -> Result<(), Stop> {
                $(self.names.field = $name;)?
                value.serialize(&mut **self)
            }

            #[inline]
            fn end(self) -> Result<(), Stop> {
                Ok(())
            }
        }
    )*};
}

parts!(
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(key: &'static str),
    SerializeStructVariant::serialize_field(key: &'static str)
);

macro_rules! leaves {
    ($($method:ident($type:ty) => $kind:ident),*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), Stop> {
            self.leaf(Kind::$kind, value as u64)
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Leaves {
    type Ok = ();
    type Error = Stop;
    type SerializeSeq = List<'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = List<'a>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    leaves!(
        serialize_u8(u8) => Byte,
        serialize_i8(i8) => Byte,
        serialize_u16(u16) => Unsigned,
        serialize_u32(u32) => Unsigned,
        serialize_u64(u64) => Unsigned,
        serialize_i16(i16) => Signed,
        serialize_i32(i32) => Signed,
        serialize_i64(i64) => Signed,
        serialize_char(char) => Char
    );

    fn serialize_bool(self, value: bool) -> Result<(), Stop> {
        self.flag(value, if value { "true" } else { "false" })
    }

    fn serialize_f32(self, _: f32) -> Result<(), Stop> {
        self.leaf(Kind::Other, 0)
    }

    fn serialize_f64(self, _: f64) -> Result<(), Stop> {
        self.leaf(Kind::Other, 0)
    }

    fn serialize_i128(self, _: i128) -> Result<(), Stop> {
        self.leaf(Kind::Other, 0)
    }

    fn serialize_u128(self, _: u128) -> Result<(), Stop> {
        self.leaf(Kind::Other, 0)
    }

    fn serialize_str(self, value: &str) -> Result<(), Stop> {
        self.put_text(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Stop> {
        self.put_text(value)
    }

    fn serialize_none(self) -> Result<(), Stop> {
        self.flag(false, "none")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Stop> {
        self.flag(true, "some")?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Stop> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Stop> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, name: &'static str) -> Result<(), Stop> {
        self.variant(index, name)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Stop> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        self.variant(index, name)?;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a>, Stop> {
        if self.depth == 0 {
            self.see()?;
            if self.reach.names {
                self.names.lists.push(self.names.field);
            }
        }
        self.depth += 1;
        Ok(List { leaves: self, elements: 0 })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<List<'a>, Stop> {
        self.serialize_seq(length)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, Stop> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Stop> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self, Stop> {
        self.variant(index, name)?;
        Ok(self)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Stop> {
        Ok(self)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self, Stop> {
        self.variant(index, name)?;
        Ok(self)
    }

    /// As in the log.
    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_passed_over_and_short_ones_behind_them_are_kept() {
        let mut leaves = Leaves::default();
        let long = "long".repeat(MOST_TEXT);
        assert!(leaves.take_apart(&(&long, 7u8, vec![&long; 9], "short"), Reach::ALL));
        let kinds: Vec<_> = leaves.outer.iter().map(|leaf| leaf.kind).collect();
        assert_eq!(kinds, [Kind::Other, Kind::Byte, Kind::Text]);
        assert_eq!(leaves.text(leaves.outer[2]), b"short");
        assert_eq!(leaves.texts.len(), 5);
    }
}
