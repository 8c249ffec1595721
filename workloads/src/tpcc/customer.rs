//! How Payment and Order-Status name a customer: by number, or by last name (clauses 2.5.1.2, 2.6.1.2).

use mixlog_engine::{DecodeError, Tx};
use serde::{Deserialize, Serialize};

use super::keys::{CustomerKey, DistrictKey, NameKey};
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
    pub(crate) fn find(self, tx: &Tx<'_>, district: DistrictKey) -> Option<CustomerKey> {
        let id = match self {
            Self::Id(id) => Some(id),
            Self::LastName(name) => {
                tx.get(&CUSTOMER_BY_NAME, &NameKey::new(district, name)).and_then(|ids| middle(ids))
            }
        };
        id.map(|id| CustomerKey::new(district, id))
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

/// Position ceil(n/2), counted from 1.
#[inline]
#[must_use]
pub fn middle(ids: &[u32]) -> Option<u32> {
    ids.get(ids.len().saturating_sub(1) / 2).copied()
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
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[7]), Some(7));
        assert_eq!(middle(&[7, 8]), Some(7));
        assert_eq!(middle(&[7, 8, 9]), Some(8));
        assert_eq!(middle(&[7, 8, 9, 10]), Some(8));
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
