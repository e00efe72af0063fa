//! One connection: requests behind one another out, replies in the same order in.
//!
//! `connection` is what it consists of. It carries one call (`call`, `single`) or a batch (`batch`, of `requests`;
//! `pipeline`; reads in it may be `doubled`), and there is one loop that drives either (`drive`). What it came to is an
//! `outcome`; threads that others drive for are `waiter`s, woken by `wakeup`s.

pub mod batch;
pub mod call;
pub mod connection;
mod doubled;
pub mod drive;
pub mod outcome;
pub mod pipeline;
pub mod requests;
pub mod single;
#[cfg(test)]
mod tests;
pub mod waiter;
pub mod wakeup;
