//! SmallBank: customers with a savings and a checking account each, and six small transactions on them.
//!
//! | transaction | share | what it does |
//! |---|---|---|
//! | Amalgamate | 15 % | moves everything that one customer has to the checking account of another |
//! | Balance | 15 % | reads both accounts of a customer |
//! | DepositChecking | 15 % | adds to a checking account |
//! | SendPayment | 25 % | moves money between two checking accounts, or aborts |
//! | TransactSavings | 15 % | adds to a savings account or takes from it, or aborts if that left less than nothing |
//! | WriteCheck | 15 % | takes from a checking account, with a penalty if both accounts together do not cover it |
//!
//! A checking account may be overdrawn, a savings account may not. WriteCheck reads one account and writes the other,
//! so that two of them, or one beside a TransactSavings, are the write skew that snapshot isolation lets pass.
//!
//! Source: Alomari, Cahill, Fekete and Röhm, "The Cost of Serializability on Platforms That Use Snapshot Isolation"
//! (ICDE 2008); SendPayment and the shares come from H-Store. Departures: amounts are drawn, from 0.01 to 100.00,
//! where H-Store has one amount for each transaction; names have 16 digits.

pub mod audit;
pub mod bank;
pub mod client;
pub mod driver;
pub mod load;
pub mod transactions;
