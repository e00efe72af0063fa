//! An embeddable cache with a C ABI, over Redis, Valkey or the process's own memory.
//!
//! One request's way: a `cachetory_*` function in [`ffi`] checks the caller's arguments and looks the handle up; [`cache`]
//! holds what the handle names; a [`backend`] carries the [`op`] out and gives an [`op::Answer`] back, its bytes in a
//! [`value`]. Of an asynchronous call the answer goes to a queue: [`completion`]. [`config`] reads the URL, [`deadline`] bounds everything that may wait, `reserve` keeps the process
//! alive where memory runs out, [`error`] is everything that can go
//! wrong, and [`fork`] notices that this is a child process that must not use what it inherited.
//! Arrows point one way: nothing below `ffi` knows that C exists, nothing above `backend::redis` knows RESP.

pub mod backend;
pub mod cache;
pub mod completion;
pub mod config;
pub mod deadline;
pub mod error;
pub mod ffi;
pub mod fork;
pub mod op;
mod reactor;
mod reserve;
mod spin;
mod threads;
pub mod value;
