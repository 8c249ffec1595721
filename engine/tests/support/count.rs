//! A row that cannot be serialized when it is as large as can be: a panic that is no procedure's.

use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Count(pub(crate) u64);

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 != u64::MAX, "too many to count");
        self.0.serialize(serializer)
    }
}
