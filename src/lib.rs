//! An embeddable cache with a C ABI, over Redis, Valkey or the process's own memory.
//!
//! One request's way: a `cachetory_*` function in [`ffi`] checks the caller's arguments and looks the handle up;
//! [`cache`] holds what the handle names; a [`backend`] carries the [`op`] out and gives an [`op::Answer`] back, its
//! bytes in a [`value`]. The answer of an asynchronous call goes to a queue: [`completion`].
//!
//! Beside that way: [`config`] reads the URL, [`deadline`] bounds everything that may wait, [`error`] is everything
//! that can go wrong, `reserve` keeps the process alive where memory runs out, [`fork`] notices that this is a child
//! process that must not use what it inherited, and `sys` is what differs between systems.
//!
//! Arrows point one way: nothing below `ffi` knows that C exists, nothing above `backend::redis` knows RESP. Only the
//! modules that allow `unsafe_code` here have any.

#![deny(unsafe_code)]

pub mod backend;
pub mod cache;
pub mod completion;
pub mod config;
pub mod deadline;
pub mod error;
#[allow(unsafe_code)]
pub mod ffi;
#[allow(unsafe_code)]
pub mod fork;
pub mod op;
mod reactor;
#[allow(unsafe_code)]
mod reserve;
mod spin;
mod sync;
#[allow(unsafe_code)]
mod sys;
mod threads;
pub mod value;
