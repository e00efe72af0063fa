//! One connection: requests behind one another out, replies in the same order in.

pub mod batch;
pub mod connection;
pub mod drive;
pub mod waiter;
