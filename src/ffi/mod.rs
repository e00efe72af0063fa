//! The C boundary, and the only place that touches a caller's pointer. The body of an exported function is: guard,
//! empty the outputs, check, one safe call, fill the outputs. The conventions of the ABI open `include/cachetory.h`.

#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod arg;
pub mod cache;
pub mod completion;
mod guard;
mod handle;
pub mod queue;
mod request;
pub mod status;
pub mod submit;
pub mod types;
mod undisturbed;
