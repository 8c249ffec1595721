//! How Payment and Order-Status name a customer: by number, or by last name (clauses 2.5.1.2, 2.6.1.2).

use mixlog_engine::{DecodeError, Tx};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::keys::{CustomerKey, DistrictKey, NameKey, NameRank};
use super::schema::CUSTOMER_BY_NAME;
use crate::codec::Reader;

/// Which customer of a district.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// The customer with this C_ID.
    Id(u32),
    /// Of those whose C_LAST has this number, sorted by C_FIRST, the one in the middle, rounded up.
    LastName(u16),
}

impl Selector {
    /// The customer, or nobody if no customer has the last name. A number is not looked up here.
    #[inline]
    pub(crate) fn find(self, tx: &mut Tx<'_>, district: DistrictKey) -> Option<CustomerKey> {
        match self {
            Self::Id(id) => Some(CustomerKey::new(district, id)),
            Self::LastName(name) => {
                let name = NameRank::all(NameKey::new(district, name));
                let keys: Namesakes = tx.range_by(&CUSTOMER_BY_NAME, name).map(|(_, key)| key).collect();
                middle(&keys)
            }
        }
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let (tag, value) = match self {
            Self::Id(id) => (0, id),
            Self::LastName(name) => (1, u32::from(name)),
        };
        out.push(tag);
        out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match (bytes.u8()?, bytes.u32()?) {
            (0, id) => Ok(Self::Id(id)),
            (1, name) if name <= u32::from(u16::MAX) => Ok(Self::LastName(name as u16)),
            _ => Err(DecodeError::new("a customer is named by number (0) or by last name (1)")),
        }
    }
}

/// Those who share a last name: 3 on average, so that they seldom need the heap.
pub(super) type Namesakes = SmallVec<[CustomerKey; 8]>;

/// The one at place ceil(n/2), counted from 1.
#[inline]
#[must_use]
pub fn middle<T: Copy>(sorted: &[T]) -> Option<T> {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// A row that a transaction needs and that is not there: the request names something that was not populated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// The warehouse.
    Warehouse,
    /// The district.
    District,
    /// The customer, or any customer of the last name.
    Customer,
    /// The stock of an item.
    Stock,
    /// An order, or one of its lines, that another row names: the state is damaged.
    Order,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_rounds_up_as_the_specification_counts() {
        let middle_of = |count| middle(&[1, 2, 3, 4][..count]);
        assert_eq!([0, 1, 2, 3, 4].map(middle_of), [None, Some(1), Some(1), Some(2), Some(2)]);
    }

    #[test]
    fn selector_survives_its_encoding_and_refuses_other_bytes() {
        for selector in [Selector::Id(u32::MAX), Selector::LastName(999)] {
            let mut bytes = Vec::new();
            selector.encode(&mut bytes);
            assert_eq!(Selector::decode(&mut Reader::new(&bytes)).expect("it decodes"), selector);
            assert!(Selector::decode(&mut Reader::new(&bytes[..4])).is_err());
        }
        assert!(Selector::decode(&mut Reader::new(&[2, 0, 0, 0, 0])).is_err());
        assert!(Selector::decode(&mut Reader::new(&[1, 0, 0, 1, 0])).is_err());
    }
}
